"""Who meets whom: small sets of writers that together reach every rule of the protocol.

The numbers of crashes and lost answers are as large as lets all scenarios together be explored in about a minute.
"""

from tests.model.state import KEEP, Commit, Kind, Obj, Scenario, When

ABSENT = Obj(Kind.ABSENT)
# A conversation that refers to the segment, committed before anybody here began.
SHARING = Obj(Kind.LIVE, 1, mark=-1)


def write(key: int, when: When = When.ANY) -> Commit:
    """Creates or replaces a conversation; the new content contains the segment."""
    return Commit(key, Kind.LIVE, 1, when)


def overwrite(key: int) -> Commit:
    """Creates or replaces a conversation; the new content does not contain the segment."""
    return Commit(key, Kind.LIVE, 0)


def delete(key: int) -> Commit:
    """Deletes a conversation and releases what it held at once."""
    return Commit(key, Kind.DEAD, 0, When.LIVE)


def trash(key: int) -> Commit:
    """Deletes a conversation; the tombstone keeps its references until it expires."""
    return Commit(key, Kind.DEAD, KEEP, When.LIVE)


def expire(key: int) -> Commit:
    """Ends the trash period."""
    return Commit(key, Kind.DEAD, 0, When.TRASHED)


def undelete(key: int) -> Commit:
    """Brings a conversation back from the trash."""
    return Commit(key, Kind.LIVE, KEEP, When.TRASHED)


TWO_CONVERSATIONS = Scenario(
    "two conversations are created with one segment, and one of them is deleted",
    writers=((write(1),), (write(2),), (delete(1),)),
    manifests=(ABSENT, ABSENT),
    crashes=2,
    losses=2,
)
ONE_CONVERSATION = Scenario(
    "a conversation is created, replaced by other content, and deleted at once",
    writers=((write(1),), (overwrite(1),), (delete(1),)),
    manifests=(SHARING,),
    crashes=2,
)
CREATE_AND_DELETE = Scenario(
    "a conversation is created and deleted at once",
    writers=((write(1),), (delete(1),)),
    manifests=(ABSENT,),
    crashes=2,
    losses=2,
)
EXCLUSIVE = Scenario(
    "two writers create one name, only one may, and it is deleted",
    writers=((write(1, When.NOT_LIVE),), (write(1, When.NOT_LIVE),), (delete(1),)),
    manifests=(ABSENT,),
    crashes=2,
)
RENAME = Scenario(
    "a conversation is renamed while another writer replaces it",
    writers=((write(2), delete(1)), (overwrite(1),)),
    manifests=(SHARING, ABSENT),
    crashes=2,
    losses=2,
)
TRASH = Scenario(
    "a conversation goes to the trash, expires and is undeleted",
    writers=((trash(1),), (expire(1),), (undelete(1),)),
    manifests=(SHARING,),
    crashes=2,
    losses=2,
)
SMALL_RECORD_RING = Scenario(
    "a record whose ring holds one id, which other writers push out",
    writers=((delete(1),), (write(2),), (write(3),)),
    manifests=(SHARING, ABSENT, ABSENT),
    record_ring=1,
    crashes=2,
)
SMALL_MANIFEST_RING = Scenario(
    "a manifest whose ring holds one id, which other writers push out",
    writers=((write(1),), (overwrite(1),), (delete(1),)),
    manifests=(ABSENT,),
    manifest_ring=1,
    crashes=2,
    losses=2,
)
SMALL_RINGS = Scenario(
    "both rings hold two ids; a name is written, deleted, and written again beside another",
    writers=((write(1),), (delete(1), write(1)), (write(2), delete(2))),
    manifests=(SHARING, ABSENT),
    record_ring=2,
    manifest_ring=2,
)
PURGE = Scenario(
    "dead records and tombstones are removed physically beside writers",
    writers=((write(1),), (delete(1),), (write(2),)),
    manifests=(ABSENT, ABSENT),
    purge=True,
    crashes=2,
)
PURGE_ONE_NAME = Scenario(
    "a name is created, deleted, removed physically and created again",
    writers=((write(1), delete(1)), (write(1),)),
    manifests=(ABSENT,),
    purge=True,
    crashes=2,
)
REDIRECT = Scenario(
    "payloads in blobs: two creators, a deleter, a slow collector",
    writers=((write(1),), (write(2),), (delete(1),)),
    manifests=(SHARING, ABSENT),
    redirect=True,
    crashes=2,
)
ALL = (
    TWO_CONVERSATIONS,
    ONE_CONVERSATION,
    CREATE_AND_DELETE,
    EXCLUSIVE,
    RENAME,
    TRASH,
    SMALL_RECORD_RING,
    SMALL_MANIFEST_RING,
    SMALL_RINGS,
    PURGE,
    PURGE_ONE_NAME,
    REDIRECT,
)

"""Segment records: transitions of the state, what is healed, and what is refused."""

import hashlib
import time
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs import codec
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault import record as records
from stowfs.vault.record import MANY, RAW_LIMIT, Operation, Payload, Record
from stowfs.vault.ring import CAPACITY

RAW = b"".join(b"turn %d of a conversation, %x\n" % (n, n**5) for n in range(60))
DIGEST = hashlib.sha256(RAW).hexdigest()
REVISION = "0" * 32
PAYLOAD = Payload(DIGEST, codec.compress(RAW), len(RAW))


def op(name: str, *, fresh: bool = True, since: int | None = None) -> Operation:
    return Operation(name, fresh=fresh, since=since)


def live(count: int = 1, *, many: int = MANY) -> Record:
    return records.acquire(None, [op(f"first{n:03d}") for n in range(count)], PAYLOAD, many=many)


def undo(record: Record | None, acquired: str, undoing: Operation, *, certain: bool = False) -> Record:
    return records.undo(record, DIGEST, acquired, undoing, certain=certain)


def released(record: Record | None, *operations: Operation) -> Record:
    result = records.release(record, operations)
    assert result is not None
    return result


def raw_of(record: Record) -> bytes:
    return records.unpack(DIGEST, record.header.raw_size, record.payload)


BODY = records.encode(live())

# The stored form


def test_a_record_is_a_line_of_json_and_the_payload() -> None:
    record = live(3)
    body = records.encode(record)
    line, _, payload = body.partition(b"\n")
    assert msgspec.json.decode(line)["ref_count"] == 3
    assert payload == PAYLOAD.compressed
    assert records.decode(DIGEST, body) == record


def test_a_redirected_record_has_no_payload_of_its_own() -> None:
    record = records.acquire(None, [op("a")], replace(PAYLOAD, redirect=REVISION))
    assert (record.header.redirect, record.payload) == (REVISION, b"")
    assert record.header.stored_size == len(PAYLOAD.compressed)
    assert records.decode(DIGEST, records.encode(record)) == record


def test_a_newer_format_is_refused_by_name() -> None:
    line, _, payload = records.encode(live()).partition(b"\n")
    fields = msgspec.json.decode(line) | {"v": 2}
    with pytest.raises(UnsupportedVersion, match="upgrade"):
        records.decode(DIGEST, msgspec.json.encode(fields) + b"\n" + payload)


def test_the_record_of_another_segment_is_refused() -> None:
    with pytest.raises(CorruptObject):
        records.decode("0" * 64, records.encode(live()))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_corrupt(body: bytes) -> None:
    with pytest.raises((CorruptObject, UnsupportedVersion)):
        records.decode(DIGEST, body)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    """By the record, or by the SHA-256 of what it unpacks to."""
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    try:
        record = records.decode(DIGEST, bytes(body))
        raw = raw_of(record) if record.header.state == "live" and not record.header.redirect else RAW
    except (CorruptObject, UnsupportedVersion):
        return
    assert raw == RAW


def test_nesting_that_is_too_deep_is_corrupt() -> None:
    with pytest.raises(CorruptObject):
        records.decode(DIGEST, b'{"v":1,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n")


@pytest.mark.parametrize("claim", [-1, RAW_LIMIT + 1, 1 << 62])
def test_a_size_out_of_bounds_is_refused(claim: int) -> None:
    with pytest.raises(CorruptObject, match="claims"):
        records.unpack(DIGEST, claim, PAYLOAD.compressed)


@pytest.mark.parametrize("claim", [0, len(RAW) - 1, len(RAW) + 1, RAW_LIMIT])
def test_a_size_that_lies_is_refused(claim: int) -> None:
    with pytest.raises(CorruptObject):
        records.unpack(DIGEST, claim, PAYLOAD.compressed)


# Counting


def test_life_of_a_segment() -> None:
    record = live()
    assert (record.header.state, record.header.ref_count, record.header.zero_since) == ("live", 1, None)
    record = records.acquire(record, [op("b"), op("c")], None)
    assert record.header.ref_count == 3
    record = released(record, op("b-"), op("c-"))
    assert (record.header.ref_count, record.header.zero_since) == (1, None)
    before = time.time()
    record = released(record, op("a-"))
    assert record.header.ref_count == 0
    assert record.header.zero_since is not None
    assert before <= record.header.zero_since <= time.time()
    assert records.collect(record, "early", before=before - 1) is record
    dead = records.collect(record, "k", before=time.time() + 1)
    assert dead is not None
    assert (dead.header.state, dead.payload, dead.header.redirect) == ("dead", b"", None)
    # The ring outlives the segment: whoever lost an answer still finds the id.
    assert dead.header.ring.recent[-3:] == ("c-", "a-", "k")
    again = records.acquire(dead, [op("d")], PAYLOAD)
    assert (again.header.state, again.header.ref_count, again.header.zero_since) == ("live", 1, None)
    assert again.header.ring.recent[-2:] == ("k", "d")
    assert raw_of(again) == RAW


def test_a_reference_ends_the_wait_for_collection() -> None:
    record = records.acquire(released(live(), op("a-")), [op("b")], None)
    assert record.header.zero_since is None
    assert records.collect(record, "k", before=float("inf")) is record


def test_what_is_counted_already_is_not_counted_again() -> None:
    record = live()
    assert records.acquire(record, [op("first000", fresh=False)], None) is record
    record = released(record, op("a-"))
    assert records.release(record, [op("a-", fresh=False)]) is record


def test_a_fresh_operation_is_counted_without_a_look_at_the_ring() -> None:
    assert records.acquire(live(), [op("first000")], None).header.ref_count == 2


def test_in_doubt_an_acquire_counts_and_a_release_does_not() -> None:
    """The ring has dropped `a` and `a-`, if they ever were in it."""
    record = live(20)
    for number in range(CAPACITY + 5):
        record = records.acquire(record, [op(f"z{number:02d}")], None)
    doubtful = {"a": op("a", fresh=False), "a-": op("a-", fresh=False)}
    assert records.acquire(record, [doubtful["a"]], None).header.ref_count == record.header.ref_count + 1
    assert records.release(record, [doubtful["a-"]]) is record
    assert undo(record, "a", op("au")).header.ref_count == record.header.ref_count
    assert undo(record, "a", op("au"), certain=True).header.ref_count == record.header.ref_count - 1
    # Whoever remembers a generation that the ring reaches back to has no doubt.
    known = op("a-", fresh=False, since=record.header.ring.generation - 3)
    assert released(record, known).header.ref_count == record.header.ref_count - 1


def test_an_absent_or_dead_segment_cannot_be_acquired_without_its_bytes() -> None:
    dead = records.collect(released(live(), op("a-")), "k", before=float("inf"))
    for nothing in (None, dead):
        with pytest.raises(CorruptObject):
            records.acquire(nothing, [op("b")], None)


def test_nothing_is_released_of_what_is_not_there() -> None:
    dead = records.collect(released(live(), op("a-")), "k", before=float("inf"))
    for nothing in (None, dead):
        assert records.release(nothing, [op("b-")]) is nothing
        assert records.recompress(nothing, "r", PAYLOAD) is nothing
        assert records.collect(nothing, "k", before=float("inf")) is nothing


# Rolling back


def test_undoing_what_happened_takes_it_back() -> None:
    record = records.acquire(live(), [op("b")], None)
    undone = undo(record, "b", op("bu"))
    assert undone.header.ref_count == 1
    assert undo(undone, "b", op("bu", fresh=False)) is undone


def test_undoing_what_did_not_happen_changes_the_record_all_the_same() -> None:
    """So that the write of it, which may be on its way, is refused."""
    record = live()
    undone = undo(record, "b", op("bu"))
    assert undone.header.ref_count == 1
    assert undone.header.ring.recent[-1] == "bu"
    assert records.encode(undone) != records.encode(record)
    nowhere = undo(None, "b", op("bu"))
    assert (nowhere.header.state, nowhere.header.ref_count) == ("dead", 0)
    assert records.decode(DIGEST, records.encode(nowhere)) == nowhere
    assert records.acquire(nowhere, [op("c")], PAYLOAD).header.ref_count == 1


# Saturation


def test_a_count_stays_at_its_bound() -> None:
    record = live(2, many=3)
    record = records.acquire(record, [op("b"), op("c"), op("d")], None, many=3)
    assert record.header.ref_count == 3
    assert records.acquire(record, [op("e")], PAYLOAD, many=3) is record
    assert records.release(record, [op("b-")], many=3) is record
    assert records.undo(record, DIGEST, "c", op("cu"), many=3) is record
    assert records.collect(record, "k", before=float("inf")) is record


# Healing


@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize("damage", ["payload", "size", "raw size", "other bytes"])
def test_a_damaged_payload_is_mended_by_the_next_writer(damage: str, count: int) -> None:
    record = live()
    header = msgspec.structs.replace(record.header, ref_count=count)
    match damage:
        case "payload":
            payload = bytes([record.payload[0] ^ 1]) + record.payload[1:]
            damaged = Record(header, payload)
        case "size":
            damaged = Record(msgspec.structs.replace(header, stored_size=3), record.payload[:3])
        case "raw size":
            damaged = Record(msgspec.structs.replace(header, raw_size=5), record.payload)
        case _:
            wrong = codec.compress(RAW[::-1])
            damaged = Record(msgspec.structs.replace(header, stored_size=len(wrong)), wrong)
    damaged = records.decode(DIGEST, records.encode(damaged))
    healed = records.acquire(damaged, [op("b")], PAYLOAD)
    assert raw_of(records.decode(DIGEST, records.encode(healed))) == RAW
    assert healed.header.ref_count == min(count + 1, MANY)
    assert records.encode(healed) != records.encode(damaged)


def test_another_sound_payload_is_left_alone() -> None:
    other = replace(PAYLOAD, compressed=codec.compress(RAW, level=-5))
    assert other.compressed != PAYLOAD.compressed
    record = records.acquire(live(), [op("b")], other)
    assert record.payload == PAYLOAD.compressed


# Recompression


def test_recompression_changes_the_stored_form_only() -> None:
    record = live(2)
    inline = replace(PAYLOAD, compressed=codec.compress(RAW, level=19), dictionary="d")
    for payload in (replace(inline, redirect=REVISION), inline):
        changed = records.recompress(record, "r", payload)
        assert changed is not None
        header = changed.header
        assert (header.ref_count, header.raw_size, header.state) == (2, len(RAW), "live")
        assert (header.redirect, header.dictionary) == (payload.redirect, "d")
        assert changed.payload == (b"" if payload.redirect else payload.compressed)
        assert records.decode(DIGEST, records.encode(changed)) == changed


# Everything together

KINDS = ["acquire", "release", "again", "undo", "collect", "recompress"]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9))))
def test_a_count_is_the_number_of_its_holders(steps: list[tuple[str, int]]) -> None:
    """Holders acquire, release, repeat what they did, and undo; within what a ring remembers, nothing is lost."""
    record: Record | None = None
    holders: dict[int, int] = {}
    for step, (kind, who) in enumerate(steps[:CAPACITY]):
        match kind:
            case "acquire" if who not in holders:
                record = records.acquire(record, [op(f"{who}.{step}")], PAYLOAD)
                holders[who] = step
            case "again" if who in holders:
                record = records.acquire(record, [op(f"{who}.{holders[who]}", fresh=False)], PAYLOAD)
            case "release" if who in holders:
                held = holders.pop(who)
                for fresh in (True, False):
                    record = records.release(record, [op(f"{who}.{held}-", fresh=fresh)])
            case "undo" if who in holders:
                record = undo(record, f"{who}.{holders[who]}", op(f"{who}.{holders.pop(who)}u"))
            case "collect":
                record = records.collect(record, f"k{step}", before=float("inf"))
            case "recompress":
                record = records.recompress(record, f"r{step}", PAYLOAD)
        count = record.header.ref_count if record else 0
        assert count == len(holders)


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect": "../../../manifests/x.json"},
        {"redirect": "0" * 31},
        {"redirect": "0" * 32 + "\n"},
        {"redirect": ""},
        {"ref_count": -1},
        {"ref_count": 1 << 64},
        {"raw_size": -1},
        {"stored_size": -1},
        {"zero_since": -1.0},
        {"created_at": 1e300},
        {"state": "undead"},
        {"ring": [["x"] * 257]},
        {"ring": [["x" * 2000]]},
        {"ring": [[], "", -1]},
    ],
)
def test_a_header_that_was_made_to_harm_is_corrupt(changes: dict[str, object]) -> None:
    header = msgspec.json.decode(records.encode(live(2)).partition(b"\n")[0]) | changes
    with pytest.raises(CorruptObject):
        records.decode_header(DIGEST, msgspec.json.encode(header) + b"\n")


def test_a_header_has_an_end() -> None:
    with pytest.raises(CorruptObject):
        records.decode(DIGEST, b" " * records.HEADER_LIMIT + records.encode(live(2)))

"""What is kept for a while: no more than there is room for, and of that what was used last."""

from hypothesis import given
from hypothesis import strategies as st

from stowfs.vault.lru import Lru

KEYS = st.sampled_from("abcd")


def keeping(*keys: str) -> Lru[bytes]:
    """Room for three, with values of one byte under these keys."""
    cache = Lru[bytes](3, len)
    for key in keys:
        cache.put(key, key.encode())
    return cache


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = keeping("a", "b", "c")
    assert cache.get("a") == b"a"
    cache.put("b", b"B")
    cache.put("d", b"d")
    assert [cache.get(key) for key in "abcd"] == [b"a", b"B", None, b"d"]


def test_what_was_put_last_stays_whatever_it_costs() -> None:
    cache = keeping("a", "b")
    cache.put("large", b"12345")
    assert [cache.get(key) for key in ("a", "b", "large")] == [None, None, b"12345"]
    cache.put("c", b"c")
    assert (cache.get("large"), cache.get("c"), cache.used) == (None, b"c", 1)


@given(st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=4))))
def test_what_is_used_is_what_is_kept(changes: list[tuple[str, bytes | None]]) -> None:
    cache = keeping()
    for key, value in changes:
        if value is None:
            cache.drop(key)
        else:
            cache.put(key, value)
        assert cache.get(key) == value
        kept = [found for key in "abcd" if (found := cache.get(key)) is not None]
        assert cache.used == sum(map(len, kept))
        assert cache.used <= cache.limit or len(kept) == 1

"""Cuts are exact, depend on content alone, and stay when a conversation grows."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stowfs.conversation.segmenter import (
    DEFAULT_PARAMETERS,
    LEAD,
    SHARED_ALONE,
    Segmentation,
    SegmenterParameters,
    segment,
)
from tests.support.corpus import SAMPLES, corpus, samples

# Small enough that even the smallest samples fall into several runs.
SMALL = SegmenterParameters(minimum=512, target=2048, maximum=4096)
MIDDLE = SegmenterParameters(minimum=4096, target=12 << 10, maximum=24 << 10)

CONTENTS = {str(path.relative_to(SAMPLES)): path.read_bytes() for path in samples()}
sample_names = st.sampled_from(sorted(CONTENTS))
parameter_sets = st.sampled_from([SMALL, MIDDLE, DEFAULT_PARAMETERS])


def check(data: bytes, cut: Segmentation, parameters: SegmenterParameters) -> None:
    """What holds for any bytes."""
    bounds = (0, *cut.ends, len(data))
    sizes = [after - before for before, after in pairwise(bounds)]
    assert all(size > 0 for size in sizes[:-1])
    assert all(size <= parameters.maximum for size in sizes)
    assert sizes[-1] >= 0
    assert cut.metadata.format == cut.format
    if cut.sealed_messages is not None:
        assert cut.metadata.messages is not None
        assert 0 <= cut.sealed_messages <= cut.metadata.messages
        assert cut.ends or not cut.sealed_messages


def pieces(data: bytes, cut: Segmentation) -> list[bytes]:
    return [data[before:after] for before, after in pairwise((0, *cut.ends, len(data)))]


@pytest.mark.parametrize("parameters", [SMALL, MIDDLE, DEFAULT_PARAMETERS])
@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_samples(name: str, parameters: SegmenterParameters) -> None:
    data = CONTENTS[name]
    whole = segment(data, parameters=parameters)
    check(data, whole, parameters)
    assert segment(memoryview(data), parameters=parameters) == whole
    assert b"".join(pieces(data, whole)) == data


@pytest.mark.parametrize("parameters", [SMALL, MIDDLE])
@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_cutting_goes_on_from_any_cut(name: str, parameters: SegmenterParameters) -> None:
    data = CONTENTS[name]
    whole = segment(data, parameters=parameters)
    for index, end in enumerate(whole.ends):
        rest = segment(data[end:], parameters=parameters, resume=whole.format)
        assert tuple(end + other for other in rest.ends) == whole.ends[index + 1 :]
        assert rest.format == whole.format
        assert rest.resumable


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_message_counts_add_up(name: str) -> None:
    data = CONTENTS[name]
    whole = segment(data, parameters=MIDDLE)
    if whole.ends and whole.metadata.messages is not None:
        rest = segment(data[whole.ends[-1] :], parameters=MIDDLE, resume=whole.format)
        assert whole.sealed_messages is not None
        assert rest.metadata.messages is not None
        assert whole.sealed_messages + rest.metadata.messages == whole.metadata.messages


@settings(max_examples=300, deadline=None)
@given(sample_names, st.floats(0, 1), parameter_sets)
def test_an_append_keeps_what_was_sealed(name: str, share: float, parameters: SegmenterParameters) -> None:
    data = CONTENTS[name]
    grown = segment(data, parameters=parameters)
    before = segment(data[: int(len(data) * share)], parameters=parameters)
    if before.resumable:
        assert grown.ends[: len(before.ends)] == before.ends
    early = segment(data[: int(len(data) * share)], parameters=parameters, final=False)
    assert grown.ends[: len(early.ends)] == early.ends


@settings(max_examples=100, deadline=None)
@given(sample_names, st.integers(1, 40), parameter_sets)
def test_windows_give_the_cuts_of_the_whole(name: str, windows: int, parameters: SegmenterParameters) -> None:
    data = CONTENTS[name]
    size = max(len(data) // windows, 1)
    ends: list[int] = []
    done = reached = 0
    recorded: str | None = None
    while reached < len(data):
        reached = min(reached + size, len(data))
        cut = segment(data[done:reached], parameters=parameters, resume=recorded, final=reached == len(data))
        if cut.ends and cut.resumable:
            recorded = cut.format
        ends += [done + end for end in cut.ends]
        done = ends[-1] if ends else 0
    assert tuple(ends) == segment(data, parameters=parameters).ends


def mutated(draw: st.DrawFn) -> bytes:
    data = CONTENTS[draw(sample_names)]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(len(data), at + 20_000)))
        match draw(st.sampled_from(["cut", "splice", "nul", "noise", "repeat"])):
            case "cut":
                data = data[:at] + data[until:]
            case "splice":
                other = CONTENTS[draw(sample_names)]
                data = data[:at] + other[draw(st.integers(0, len(other))) :][:30_000] + data[until:]
            case "nul":
                data = data[:at] + b"\0" * draw(st.integers(1, 20_000)) + data[until:]
            case "noise":
                data = data[:at] + draw(st.binary(max_size=200)) + data[until:]
            case "repeat":
                data = data[:until] + data[at:]
    return data


mutations = st.composite(mutated)()


@settings(max_examples=300, deadline=None)
@given(st.one_of(mutations, st.binary(max_size=6000)), parameter_sets)
def test_any_bytes_are_cut(data: bytes, parameters: SegmenterParameters) -> None:
    whole = segment(data, parameters=parameters)
    check(data, whole, parameters)
    for index, end in enumerate(whole.ends[:8]):
        rest = segment(data[end:], parameters=parameters, resume=whole.format)
        assert tuple(end + other for other in rest.ends) == whole.ends[index + 1 :]


KEYS = [
    "role",
    "from",
    "author",
    "message",
    "messages",
    "conversations",
    "history",
    "mapping",
    "source",
    "action",
    "observation",
    "content",
    "model",
    "metadata",
    "model_response",
    "tool_call_metadata",
    "raw_data",
    "payload",
    "tools",
    "system",
    "timestamp",
    "created_at",
    "create_time",
]
"""Members that mean something, somewhere."""

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(["system", "assistant", "2024-05-01T10:00:00Z", "\ud800", "", "long " * 400]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), max_size=6), st.booleans())
@example([{"role": {"name": "user"}, "content": "long " * 400}], False)
@example([{"from": ["user"], "content": "long " * 400}], True)
def test_members_of_any_type_are_cut(messages: list[dict[str, object]], lines: bool) -> None:
    """As in exports in which `from` is an object: what a member means elsewhere, it need not mean here."""
    texts = [json.dumps(message) for message in messages]
    text = "\n".join(texts) if lines else '{"messages": [' + ", ".join(texts) + "]}"
    check(text.encode(), segment(text.encode(), parameters=SMALL), SMALL)


@settings(max_examples=150, deadline=None)
@given(mutations, st.floats(0, 1), st.sampled_from([SMALL, MIDDLE]))
def test_an_append_to_any_bytes_keeps_what_was_sealed(
    data: bytes, share: float, parameters: SegmenterParameters
) -> None:
    before = segment(data[: int(len(data) * share)], parameters=parameters)
    if before.resumable:
        assert segment(data, parameters=parameters).ends[: len(before.ends)] == before.ends


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet='{}[]",:\\ \n\t01nul\u00e9', max_size=3000),
    st.sampled_from(["openai-chat", "claude-code", "specstory", "console", "bytes", "of-a-later-version"]),
)
def test_any_bytes_can_be_the_rest_of_any_format(text: str, recorded: str) -> None:
    data = text.encode()
    check(data, segment(data, parameters=SMALL, resume=recorded), SMALL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xef\xbb\xbf",
        b"\0" * 3_000_000,
        b"[" * 2_000_000,
        b'{"a":' * 400_000,
        b'{"messages":[{"role":"user","content":"' + b"x" * 3_000_000,
        b'{"messages":[' + b"9" * 2_000_000 + b"]}",
        b'"' * 2_000_000,
        b"\\" * 2_000_000,
        b"}   " * 600_000,
        b"}," * 900_000,
        b"\n" * 2_000_000,
        b"{}\n" * 600_000,
        b'{"role": "system"}\r\n' * 100_000,
        b"\xff\xfe{\0}\0" * 300_000,
        ('{"messages": [' + '{"role": "user", "content": "\\ud800 \u00e9"},' * 60_000).encode(),
    ],
    ids=lambda data: f"{bytes(data[:12])!r}",
)
def test_hostile_bytes(data: bytes) -> None:
    check(data, segment(data), DEFAULT_PARAMETERS)


def test_a_long_line_is_cut_inside() -> None:
    line = json.dumps({"type": "user", "message": {"role": "user", "content": "".join(map(str, range(1_500_000)))}})
    data = b'{"type":"summary","leafUuid":"1"}\n' + line.encode() + b"\n" + line.encode() + b"\n"
    cut = segment(data)
    check(data, cut, DEFAULT_PARAMETERS)
    assert cut.format == "claude-code"
    found = [hashlib.sha256(piece).digest() for piece in pieces(data, cut)]
    # The same line twice: but for the chunks at its two ends, the second is the chunks of the first.
    assert len(found) - len(set(found)) >= len(found) // 2 - 3


def test_a_message_put_into_a_document_keeps_the_runs_before_it() -> None:
    messages = [{"role": "user", "content": f"message {number} " * (number % 60)} for number in range(2000)]
    before = json.dumps({"model": "m", "messages": messages}, indent=1).encode()
    after = json.dumps({"model": "m", "messages": [*messages, messages[7]]}, indent=1).encode()
    old, new = segment(before), segment(after)
    assert old.format == "openai-chat"
    assert len(old.ends) > 3
    assert new.ends[: len(old.ends)] == old.ends
    assert new.metadata.messages == 2001


def test_a_run_ends_with_a_message() -> None:
    messages = [{"role": "user", "content": f"message {number} " * (number % 60)} for number in range(2000)]
    data = json.dumps({"messages": messages}).encode()
    for end in segment(data).ends:
        assert data[:end].endswith(b'"}')
        assert data[end:].startswith(b", {")
    lines = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    ends = segment(lines).ends
    assert len(ends) > 3
    assert all(lines[end - 1 : end] == b"\n" for end in ends)


def test_two_conversations_fall_into_step_after_a_difference() -> None:
    turns = [f"\n_**User (2026-01-01 00:{n % 60:02}:00Z)**_\n\n{n} {'words ' * (n % 70)}" for n in range(6000)]
    one = "".join(turns).encode()
    other = "".join(["\n_**User**_\n\nanother beginning", *turns[5:]]).encode()
    assert segment(one).format == "specstory"
    shared = set(pieces(one, segment(one))) & set(pieces(other, segment(other)))
    assert sum(map(len, shared)) > len(one) * 0.7


def test_messages_behind_one_that_is_too_long_are_found_again() -> None:
    messages = [{"role": "user", "content": f"message {number} " * (number % 60)} for number in range(2000)]
    long = {"role": "user", "content": " ".join(f"word{number}" for number in range(150_000))}
    data = json.dumps({"messages": [*messages[:10], long, *messages]}).encode()
    cut = segment(data)
    assert cut.metadata.messages == 2011
    behind = data.index(b'"message 1 "', data.index(b"word149999"))
    after = [end for end in cut.ends if end > behind]
    assert len(after) >= 3
    assert all(data[:end].endswith(b'"}') for end in after)


def test_every_beginning_of_a_document_keeps_its_cuts() -> None:
    eager = SegmenterParameters(minimum=128, target=256, maximum=8192)
    system = {"role": "system", "content": "s" * 1500}
    body = {"messages": [system], "k" * 1500: 10**1500, "words": ["w" * 1500, 10**1500], "tools": [{}] * 600, "n": 1}
    data = json.dumps(body).encode()
    whole = segment(data, parameters=eager).ends
    assert len(whole) == 3
    for length in range(len(data)):
        ends = segment(data[:length], parameters=eager, resume="json").ends
        assert ends == whole[: len(ends)]


def test_a_run_ends_with_a_message_before_a_stretch_of_white_space() -> None:
    messages = json.dumps([{"role": "user", "content": "x" * 1000}] * 80).encode()[:-1]
    data = messages + b" " * DEFAULT_PARAMETERS.maximum + b"]"
    assert data[: segment(data).ends[0]].endswith(b'"}')


def test_a_number_of_any_size_is_part_of_a_message() -> None:
    data = b'{"messages": [{"role": "user", "n": ' + b"9" * 20_000 + b'}, {"role": "user"}]}'
    assert segment(data).metadata.messages == 2


def test_a_first_line_may_be_a_document_or_the_beginning_of_a_log() -> None:
    line = CONTENTS["agent-requests/taubench-airline-gpt4o/0138.jsonl"].split(b"\n")[0]
    for first in (line, line + b"\n"):
        cut = segment(first)
        assert (cut.format, cut.resumable) == ("openai-chat", False)
        assert segment(first, final=False).ends == ()
    cut = segment(line + b"\n" + line[:1])
    assert (cut.format, cut.resumable) == ("openai-chat-jsonl", True)
    assert segment(b'{"messages": [' + b'{"role": "user"},' * (1 << 16)).resumable


@pytest.mark.parametrize("directory", ["agent/taubench-airline-gpt4o", "agent-requests/taubench-airline-gpt4o"])
def test_a_system_prompt_is_one_segment_in_all_conversations(directory: str) -> None:
    found = [set(pieces(data, segment(data))) for name, data in CONTENTS.items() if name.startswith(directory)]
    assert len(found) >= 3
    shared = set.intersection(*found)
    prompts = [piece for piece in shared if b"# Airline Agent Policy" in piece and len(piece) >= SHARED_ALONE]
    assert prompts
    assert all(piece.find(b'"role"') <= LEAD for piece in prompts)
    if directory.startswith("agent-requests"):
        assert any(piece.find(b'"tools"') in range(LEAD) for piece in shared)


def test_a_request_log_shares_messages_between_its_lines() -> None:
    messages = [
        {"role": "user", "content": hashlib.sha256(str(number).encode()).hexdigest() * 40} for number in range(300)
    ]
    lines = [json.dumps({"model": "m", "messages": messages[:count]}).encode() for count in range(200, 300, 10)]
    data = b"\n".join(lines) + b"\n"
    cut = segment(data)
    assert cut.format == "openai-chat-jsonl"
    assert cut.metadata.messages == len(lines)
    assert sum(map(len, set(pieces(data, cut)))) < len(data) / 3


# Every host must cut alike, with any version: this changes only with the version of the store's format.
STABLE = {
    "agent-requests/taubench-airline-gpt4o/0138.jsonl": "c87e9d4f4902748d",
    "mixed/chatgpt-export/vsla_dynamic-two-history.json": "b4cfa2ac2ae0a445",
    "mixed/claude-code-jsonl/f6108699-47cc-4b21-8ca6-3223992990b3.jsonl": "9a935140153eb045",
    "mixed/inspect-logs/log_message_deduplication.eval": "ac6be401549e6214",
    "md-history/2026-01-23_14-20-54Z.md": "0f33aedc90991212",
}


@pytest.mark.parametrize("name", sorted(STABLE))
def test_cuts_are_those_of_every_version(name: str) -> None:
    ends = segment(CONTENTS[name], parameters=MIDDLE).ends
    assert hashlib.sha256(repr(ends).encode()).hexdigest()[:16] == STABLE[name]


@pytest.mark.parametrize("sizes", [(0, 10, 20), (64, 64, 2048), (64, 4096, 4096), (64, 128, 2048), (64, 300, 900)])
def test_impossible_parameters_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        SegmenterParameters(*sizes)


def test_corpus() -> None:
    """Nothing but the samples where there is no corpus."""
    for path in [*samples(), *corpus()]:
        assert_sound(path)


def assert_sound(path: Path) -> None:
    data = path.read_bytes()
    cut = segment(data)
    check(data, cut, DEFAULT_PARAMETERS)
    if cut.ends:
        middle = cut.ends[len(cut.ends) // 2]
        rest = segment(data[middle:], resume=cut.format)
        assert tuple(middle + end for end in rest.ends) == tuple(end for end in cut.ends if end > middle), path

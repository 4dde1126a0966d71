"""Formats are recognised and described, on real conversations and where something is missing or wrong."""

import json

import pytest

from stowfs.conversation.formats.catalogue import FORMATS
from stowfs.conversation.metadata import Metadata
from stowfs.conversation.segmenter import segment
from tests.support.corpus import SAMPLES, samples

EXPECTED = [
    (
        "agent/sweagent/SWE-agent__trajectories__demonstrations__ctf__misc__networking_1.traj",
        Metadata(format="swe-agent", model=None, application="swe-agent", messages=9, time=None),
    ),
    (
        "agent/sweagent/SWE-agent__trajectories__demonstrations__function_calling_simple.traj",
        Metadata(format="messages", model=None, application=None, messages=12, time=None),
    ),
    (
        "agent/tau2-airline-sonnet45/0031.json",
        Metadata(
            format="tau2",
            model="claude-sonnet-4-5-20250929",
            application="tau2-bench",
            messages=8,
            time=1761896292.867065,
        ),
    ),
    (
        "agent/tau2-sft-openai-train/0018.json",
        Metadata(format="openai-chat", model=None, application=None, messages=8, time=None),
    ),
    (
        "agent/tau2-toolorchestra-airline-gpt5/0023.json",
        Metadata(format="tau2", model=None, application="tau2-bench", messages=8, time=1735689600.0),
    ),
    (
        "agent/taubench-airline-gpt4o/0000.json",
        Metadata(format="tau-bench", model=None, application="tau-bench", messages=32, time=None),
    ),
    (
        "agent/taubench-retail-grok3/0050.json",
        Metadata(format="tau-bench", model=None, application="tau-bench", messages=12, time=None),
    ),
    (
        "agent-requests/taubench-airline-gpt4o/0138.jsonl",
        Metadata(format="openai-chat-jsonl", model="gpt-4o", application=None, messages=4, time=None),
    ),
    (
        "agent-requests/taubench-retail-grok3/0050.jsonl",
        Metadata(format="openai-chat-jsonl", model="grok-3", application=None, messages=5, time=None),
    ),
    (
        "chat/fastchat-dummy/identity_73.json",
        Metadata(format="sharegpt", model=None, application=None, messages=2, time=None),
    ),
    ("chat/smile/0.json", Metadata(format="messages", model=None, application=None, messages=10, time=None)),
    (
        "md-history/2026-01-16_16-46-41Z-command-name-exit-command.md",
        Metadata(format="specstory", model=None, application="claude-code", messages=3, time=1768582001.0),
    ),
    (
        "md-history/2026-01-23_14-20-54Z.md",
        Metadata(
            format="specstory",
            model="claude-opus-4-5-20251101",
            application="claude-code",
            messages=16,
            time=1769178054.0,
        ),
    ),
    (
        "mixed/anthropic-messages/f6108699-47cc-4b21-8ca6-3223992990b3.json",
        Metadata(
            format="anthropic-messages", model="claude-sonnet-4-20250514", application=None, messages=19, time=None
        ),
    ),
    (
        "mixed/chatgpt-export/vsla_dynamic-two-history.json",
        Metadata(format="chatgpt-export", model="o3", application="chatgpt", messages=17, time=1749652155.383719),
    ),
    (
        "mixed/claude-code-jsonl/9cc4a4b0-cba8-4e56-b79f-80b730735150.jsonl",
        Metadata(
            format="claude-code",
            model="claude-opus-4-20250514",
            application="claude-code",
            messages=46,
            time=1752695914.347,
        ),
    ),
    (
        "mixed/claude-code-web/sample_session.json",
        Metadata(format="claude-code-web", model=None, application="claude-code", messages=33, time=1766570400.0),
    ),
    (
        "mixed/codex-rollout-synthetic/sample_rollout.jsonl",
        Metadata(format="codex", model=None, application="codex", messages=3, time=1767614400.0),
    ),
    (
        "mixed/inspect-logs/2024-11-05T13-31-45-05-00_input-task_8zXjbRzCWrL9GXiXo2vus9.json",
        Metadata(format="inspect", model="openai/gpt-4o-mini", application="inspect", messages=7, time=1730831505.0),
    ),
    (
        "mixed/inspect-logs/log_message_deduplication.eval",
        Metadata(format="bytes", model=None, application=None, messages=None, time=None),
    ),
    (
        "mixed/jsonl-finetune/reason_tool_use_demo_50.lines-1-12.jsonl",
        Metadata(format="openai-chat-jsonl", model=None, application=None, messages=12, time=None),
    ),
    (
        "mixed/jsonl-message-per-line/02.jsonl",
        Metadata(format="messages-jsonl", model=None, application=None, messages=26, time=1773033885.542591),
    ),
    (
        "mixed/markdown/aider_chat-history.bytes-3194-43151.md",
        Metadata(
            format="aider", model="claude-3-5-sonnet-20240620", application="aider", messages=18, time=1722886382.0
        ),
    ),
    (
        "mixed/markdown/specstory_2026-01-12_15-08-38Z-update-our-docs-to.md",
        Metadata(
            format="specstory",
            model="claude-opus-4-5-20251101",
            application="claude-code",
            messages=68,
            time=1768230518.0,
        ),
    ),
    (
        "mixed/markdown/vsla_20250716_201106_9b92ce83-1981-4cdc-9f5d-7f66c4b10389.md",
        Metadata(format="claude-code-markdown", model=None, application="claude-code", messages=5, time=1752696666.0),
    ),
    (
        "mixed/openai-messages/kto_000.json",
        Metadata(format="openai-chat", model=None, application=None, messages=2, time=None),
    ),
    (
        "mixed/openai-messages/tau2sim_o3_02.json",
        Metadata(format="tau2", model=None, application="tau2-bench", messages=24, time=1773033182.250513),
    ),
    (
        "mixed/openhands-events/basic_interactions.json",
        Metadata(
            format="openhands", model="gpt-4o-2024-08-06", application="openhands", messages=6, time=1738368850.787622
        ),
    ),
    (
        "mixed/sharegpt/dpo_en_demo_004.json",
        Metadata(format="sharegpt", model=None, application=None, messages=7, time=None),
    ),
    (
        "mixed/text-console/trap_2025-11-20-a.txt",
        Metadata(format="console", model=None, application="claude-code", messages=11, time=None),
    ),
    (
        "mixed/toolbench-dfs/G2_answer__127_ChatGPT_DFS_woFilter_w2.json",
        Metadata(format="toolbench", model=None, application="toolbench", messages=17, time=None),
    ),
]


@pytest.mark.parametrize(("name", "expected"), EXPECTED)
def test_samples(name: str, expected: Metadata) -> None:
    assert segment((SAMPLES / name).read_bytes()).metadata == expected


def test_every_sample_has_a_format_of_its_own_kind() -> None:
    fallbacks = {"json", "jsonl", "markdown"}
    for path in samples():
        found = segment(path.read_bytes()).format
        assert found not in fallbacks, path
        assert (found == "bytes") == (path.suffix == ".eval"), path


def test_names_are_unique() -> None:
    assert len({entry.name for entry in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("name", "expected", "messages"),
    [
        ("mixed/openai-messages/kto_004.json", "openai-chat", 6),
        ("mixed/claude-code-jsonl/9cc4a4b0-cba8-4e56-b79f-80b730735150.jsonl", "claude-code", 46),
        ("mixed/chatgpt-export/vsla_v3-review.json", "chatgpt-export", 12),
        ("md-history/2026-01-23_14-20-54Z.md", "specstory", 16),
    ],
)
def test_byte_order_marks_and_line_ends(name: str, mark: bytes, line_end: bytes, expected: str, messages: int) -> None:
    data = mark + (SAMPLES / name).read_bytes().replace(b"\n", line_end)
    found = segment(data).metadata
    assert (found.format, found.messages) == (expected, messages)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda lines: [b"\0" * 5000, *lines], "claude-code"),
        (lambda lines: [lines[0][:40], *lines], "claude-code"),
        (lambda lines: [lines[0][:40] + lines[1], *lines[2:]], "claude-code"),
        (lambda lines: [lines[3][50:], *lines], "claude-code"),
        (lambda lines: [*lines[:3], b"\0" * 5000, lines[4][100:], *lines[5:]], "claude-code"),
        (lambda lines: [*lines[:-1], lines[-1][:30]], "claude-code"),
    ],
)
def test_damaged_lines(damage, expected: str) -> None:  # type: ignore[no-untyped-def]
    sample = SAMPLES / "mixed/claude-code-jsonl/9cc4a4b0-cba8-4e56-b79f-80b730735150.jsonl"
    lines = damage(sample.read_bytes().split(b"\n"))
    found = segment(b"\n".join(lines))
    assert found.format == expected
    assert found.metadata.model == "claude-opus-4-20250514"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2025-07-16T20:11:06Z", 1752696666.0),
        ("2025-07-16T22:11:06.500+02:00", 1752696666.5),
        ("2025-07-16 20:11:06", 1752696666.0),
        (1752696666, 1752696666.0),
        (1752696666.25, 1752696666.25),
        (1752696666250, 1752696666.25),
        ("1752696666", 1752696666.0),
        ("yesterday", None),
        ("9999-99-99T99:99:99Z", None),
        (-1, None),
        (0, None),
        (10**400, None),
        (None, None),
        ([1752696666], None),
    ],
)
@pytest.mark.parametrize("place", ["document", "message", "line"])
def test_times(time: object, expected: float | None, place: str) -> None:
    message = {"role": "user", "content": "hello"}
    match place:
        case "document":
            data = json.dumps({"created": time, "messages": [message]})
        case "message":
            data = json.dumps({"messages": [{**message, "timestamp": time}]})
        case _:
            data = json.dumps({**message, "timestamp": time}) + "\n" + json.dumps(message) + "\n"
    assert segment(data.encode()).metadata.time == expected


def test_names_of_models_in_other_scripts() -> None:
    name = "modèle-中"
    for escape in (True, False):
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}]}, ensure_ascii=escape)
        lines = (body + "\n") * 2
        assert segment(lines.encode()).metadata.model == name
        assert segment(body.encode()).metadata.model == name


def test_text_in_a_message_is_not_taken_for_metadata() -> None:
    quoted = json.dumps({"model": "of-the-quoted-request", "created_at": "2020-01-01T00:00:00Z", "mapping": {}})
    data = json.dumps({"messages": [{"role": "user", "content": quoted}]}).encode()
    assert segment(data).metadata == Metadata("openai-chat", messages=1)


def test_the_model_that_plays_the_user_is_not_the_model() -> None:
    user = {"role": "user", "content": "x", "turn_idx": 0, "raw_data": {"model": "of-the-user"}}
    answer = {"role": "assistant", "content": "y", "turn_idx": 1, "raw_data": {"model": "of-the-answer"}}
    metadata = segment(json.dumps({"messages": [user, answer]}, indent=2).encode()).metadata
    assert (metadata.format, metadata.model) == ("tau2", "of-the-answer")


@pytest.mark.parametrize("escape", [b"\\ud800", b"x\\udfff", b"\\udc00\\ud800"])
def test_half_a_character_names_no_model(escape: bytes) -> None:
    """JSON can say it, UTF-8 cannot: what is stored must be able to."""
    for conversation in (
        b'{"model":"%s","messages":[{"role":"user","content":"x"}]}' % escape,
        b'{"role":"assistant","model":"%s","content":"x"}\n' % escape * 3,
    ):
        assert segment(conversation).metadata.model is None

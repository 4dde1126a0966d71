"""The commit protocol is safe in every reachable state, and unsafe as soon as any of its rules is taken out."""

from dataclasses import fields, replace

import pytest

from tests.model import scenarios
from tests.model.explorer import StateLimit, explore
from tests.model.protocol import Model
from tests.model.state import Guards, Scenario

pytestmark = pytest.mark.timeout(600)

LOW = "count too low"
MISSING = "payload missing"
INEXACT = "count inexact at rest"
LATE = "commit took effect twice or after it was rolled back"
UNACKED = "acknowledged commit is not there"

# Which rule, where it is needed, and what goes wrong without it.
NEEDED = [
    ("acquire_before_commit", scenarios.TWO_CONVERSATIONS, LOW),
    ("op_ids", scenarios.TWO_CONVERSATIONS, LOW),
    ("op_ids", scenarios.CREATE_AND_DELETE, INEXACT),
    ("fence", scenarios.TWO_CONVERSATIONS, LOW),
    ("fence_keeps_content", scenarios.ONE_CONVERSATION, UNACKED),
    ("ring_in_tombstones", scenarios.TWO_CONVERSATIONS, LOW),
    ("ring_in_dead_records", scenarios.TWO_CONVERSATIONS, LOW),
    ("floor_rule", scenarios.SMALL_RECORD_RING, LOW),
    ("floor_rule", scenarios.SMALL_MANIFEST_RING, LOW),
    ("unknown_is_fenced", scenarios.SMALL_MANIFEST_RING, LATE),
    ("cancel_rewrites", scenarios.CREATE_AND_DELETE, INEXACT),
    ("cancel_rewrites", scenarios.REDIRECT, MISSING),
    ("revision_keys", scenarios.REDIRECT, MISSING),
    ("conditional_delete", scenarios.PURGE, LOW),
    ("purge_waits", scenarios.PURGE, LOW),
    ("horizon", scenarios.PURGE, LOW),
]


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda s: s.name)
def test_no_reachable_state_violates_an_invariant(scenario: Scenario) -> None:
    result = explore(Model(scenario, Guards()))
    print(f"{result.states:,} states")
    assert not result.broken, f"{', '.join(result.broken)}:\n{result.trace}"


@pytest.mark.parametrize(("rule", "scenario", "violation"), NEEDED, ids=lambda v: v if isinstance(v, str) else "")
def test_every_rule_is_needed(rule: str, scenario: Scenario, violation: str) -> None:
    once = replace(scenario, crashes=1, losses=1)
    intact = explore(Model(once, Guards()))
    assert not intact.broken, f"{', '.join(intact.broken)}:\n{intact.trace}"
    result = explore(Model(once, replace(Guards(), **{rule: False})), wanted=violation)
    print(result.trace)
    assert violation in result.broken, f"safe in all {result.states:,} states without {rule}"
    # A trace is readable only if it is whole: from the initial state, one numbered line a step.
    numbers = [int(line.split()[0]) for line in result.trace.splitlines()]
    assert numbers == list(range(len(numbers)))
    assert "at first" in result.trace.splitlines()[0]


def test_every_rule_has_a_test() -> None:
    assert {rule for rule, _, _ in NEEDED} == {f.name for f in fields(Guards)}


def test_a_search_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(StateLimit, match="more than 100 states"):
        explore(Model(scenarios.TWO_CONVERSATIONS, Guards()), limit=100)

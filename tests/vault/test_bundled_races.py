"""Bundles against everything else: every order in which the requests of two hosts may reach the store, and of three
some; with crashes, answers that are lost, and writes that land late.

Whatever the order, two are never told that they created one name; what was seen once stays; and what recovery gives up
after a crash never takes effect (see `tests.support.bundling`).
"""

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.store.base import ObjectStore
from stowfs.store.memory import MemoryStore
from tests.support.bundling import Client, Record, put_committed, put_fresh, put_pending
from tests.support.schedule import Actor, Script, Stage, orders

NAMES = {"x", "y", "z"}

SWITCHES = int(os.environ.get("STOWFS_SWITCHES", "2"))
"""How many times a host that could go on has to wait for the other one: with two, each may do all or a part of its work
between any two requests of the other. With three, this takes some ten minutes."""


@dataclass(frozen=True)
class Part:
    """What a host does, and what it creates, which somebody has to see to after a crash."""

    work: Callable[[Client], Awaitable[None]]
    creates: tuple[str, ...] = ()


PARTS = {
    "creates x": Part(lambda client: client.create("x"), ("x",)),
    "bundles x and y": Part(lambda client: client.bundle("x", "y"), ("x", "y")),
    "bundles z and x": Part(lambda client: client.bundle("z", "x"), ("z", "x")),
    "replaces x": Part(lambda client: client.replace("x")),
    "reads x": Part(lambda client: client.read("x")),
}


async def _nothing(_: ObjectStore) -> None:
    pass


async def _both(store: ObjectStore) -> None:
    await put_committed(store, "x", "q")
    await put_fresh(store, "x")


async def _neither(store: ObjectStore) -> None:
    await put_pending(store, "x", "q")
    await put_fresh(store, "x")


BEFORE = {
    "nothing": _nothing,
    "a bundle": lambda store: put_committed(store, "x", "y"),
    "a claim that was left": lambda store: put_pending(store, "x", "y"),
    "a fresh object that was left": lambda store: put_fresh(store, "x"),
    "a fresh object that lost": _both,
    "a fresh object and a claim": _neither,
}
"""What is there before."""

PAIRS = [
    ("bundles x and y", "creates x"),
    ("bundles x and y", "bundles z and x"),
    ("bundles x and y", "replaces x"),
    ("bundles x and y", "reads x"),
    ("creates x", "creates x"),
    ("creates x", "replaces x"),
    ("creates x", "reads x"),
    ("replaces x", "replaces x"),
    ("replaces x", "reads x"),
]


CREATORS = [
    ("bundles x and y", "creates x"),
    ("bundles x and y", "bundles z and x"),
    ("bundles x and y", "reads x"),
    ("creates x", "creates x"),
]


def _play(before: str, parts: tuple[str, ...], script: Script) -> None:
    """Hosts a, b … play their parts by a script; then everything is as it must be."""

    async def play() -> None:
        store, record = MemoryStore(), Record()
        await BEFORE[before](store)
        stage = Stage(store)
        actors = {name: _actor(name, PARTS[part], record) for name, part in zip("abc", parts, strict=False)}
        await stage.play(actors, script)
        try:
            await record.check(store, NAMES | {"q"})
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *stage.log])) from error

    # How long somebody waits before trying again is a part of the order, too.
    random.seed(0)
    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))


def _actor(name: str, part: Part, record: Record) -> Actor:
    async def work(line: ObjectStore) -> None:
        await part.work(Client(line, name, record))

    async def recover(line: ObjectStore) -> None:
        await Client(line, name, record).recover(*part.creates)

    return Actor(work, recover)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_hosts_in_every_order(one: str, other: str, before: str) -> None:
    played = 0
    for script in orders(SWITCHES):
        _play(before, (one, other), script)
        played += 1
    print(f"{played} orders")
    assert played > 1


@pytest.mark.parametrize(("one", "other"), CREATORS)
def test_whatever_befalls_a_request(one: str, other: str) -> None:
    """A host crashes at any of its requests, or one is lost, or its answer is, or it lands late; and the other host
    comes at any time: before the recovery, beside it, or after it."""
    played = 0
    for script in orders(switches=SWITCHES - 1, troubles=1):
        _play("nothing", (one, other), script)
        played += 1
    print(f"{played} orders")
    assert played > 1


@settings(max_examples=int(os.environ.get("STOWFS_EXAMPLES", "200")), deadline=None)
@given(
    before=st.sampled_from(list(BEFORE)),
    parts=st.lists(st.sampled_from(list(PARTS)), min_size=2, max_size=3),
    choices=st.lists(st.integers(0, 60), max_size=40),
    troubles=st.integers(0, 3),
)
def test_hosts_in_some_order_with_troubles(before: str, parts: list[str], choices: list[int], troubles: int) -> None:
    """Requests and answers are lost, writes land late, hosts crash and recover."""
    _play(before, tuple(parts), Script(choices, troubles=troubles))

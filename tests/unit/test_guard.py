"""The guard of a takeover."""

from __future__ import annotations

import os
import time
from contextlib import closing, nullcontext

import pytest

from vmnet_hooks import engine
from vmnet_hooks.engine import takeover
from vmnet_hooks.errors import KernelError
from vmnet_hooks.kernel.objects import edge
from vmnet_hooks.model.objects import KINDS, Address
from vmnet_hooks.model.plan import Change
from vmnet_hooks.records import store
from vmnet_hooks.records.pending import Pending


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path))
    opened = store.Store()
    yield opened
    opened.close()


@pytest.fixture
def put_back(monkeypatch):
    """The deadlines of the takeovers that were put back."""
    found = []

    def revert(_session, deadline):
        found.append(deadline)
        with closing(store.Store()) as opened:
            opened.set_pending(None)
        return True

    monkeypatch.setattr(engine, "open", nullcontext)
    monkeypatch.setattr(takeover, "revert", revert)
    return found


@pytest.mark.parametrize("whose", ["its own", "the next one's"])
def test_a_guard_minds_its_own_takeover(records, put_back, whose):
    """Its command has gone. Another command's takeover, a moment later, is not its business."""
    there = Pending(time.monotonic() + 100, False)
    records.set_pending(there)
    lifeline, alive = os.pipe()
    os.close(alive)
    takeover.watch_over(lifeline, there.deadline if whose == "its own" else there.deadline - 1)
    os.close(lifeline)
    assert put_back == ([there.deadline] if whose == "its own" else [])
    left = records.pending()
    assert (left and left.deadline) == (None if whose == "its own" else there.deadline)


@pytest.mark.parametrize(("what", "kept"), [("up", False), ("plug d1", True)])
def test_a_takeover_that_waits_for_a_word(records, put_back, what, kept, monkeypatch):
    """Its command was killed half-way, or has ended while a guest is plugged."""
    there = Pending(time.monotonic() + 100, True)
    records.set_pending(there)
    records.open_journal(what, [Change(None, Address("br0", "192.0.2.1/24"))])

    def confirmed(_):
        records.set_pending(None)

    monkeypatch.setattr(takeover.time, "sleep", confirmed)
    lifeline, alive = os.pipe()
    os.close(alive)
    takeover.watch_over(lifeline, there.deadline)
    os.close(lifeline)
    assert put_back == ([] if kept else [there.deadline])


def test_a_guard_has_loaded_what_it_needs(records, put_back):
    """Before it waits: an upgrade of the package may replace the files meanwhile."""
    edge.cache_clear()
    takeover.watch_over(0, 1.0)
    assert put_back == [] and edge.cache_info().currsize == len(KINDS)


@pytest.mark.parametrize("error", [KernelError("busy"), RuntimeError("a bug"), ImportError("another version")], ids=repr)
def test_a_guard_that_tries_again_opens_no_more(records, monkeypatch, error):
    """After any error. Each try has sockets and records of its own, closed before the next."""
    there = Pending(time.monotonic() - 1, False)
    records.set_pending(there)
    tries, during, between = [], [], []

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def revert(session, deadline):
        tries.append(deadline)
        if len(tries) == 6:
            return True
        session.kernel.read([Address("lo", "127.0.0.1/8")])
        session.records.owners()
        during.append(descriptors())
        raise error

    monkeypatch.setattr(takeover, "revert", revert)
    monkeypatch.setattr(takeover.time, "sleep", lambda _: between.append(descriptors()))
    lifeline, alive = os.pipe()
    before = descriptors()
    takeover.watch_over(lifeline, there.deadline)
    assert descriptors() == before
    os.close(lifeline)
    os.close(alive)
    assert tries == [there.deadline] * 6 and between == [before] * 5
    assert len(set(during)) == 1 and during[0] > before, "each try opens the same"

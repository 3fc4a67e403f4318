"""The agent's index: it hears of whom something was written, and reads all only after somebody else wrote."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vmnet_hooks.agent import index as module
from vmnet_hooks.agent.index import Index
from vmnet_hooks.agent.place import Records
from vmnet_hooks.model.owner import Nic, Owner
from vmnet_hooks.records import store

A = Nic(
    **dict(id="u1/m1", domain="d1", domain_id="u1", ifname="tap1", ifindex=7, mac="m1", network="public", frontend="libvirt"),
    **dict(addresses=("192.0.2.1",), since=1.0),
)
B = replace(A, id="u2/m2", domain="d2", domain_id="u2", ifname="tap2", ifindex=8, mac="m2", addresses=("192.0.2.2",))
C = replace(B, id="u3/m3", domain="d3", domain_id="u3", ifname="tap3", mac="m3")


class Heard:
    """An index that runs, and what it told."""

    def __init__(self, folder, monkeypatch) -> None:
        monkeypatch.setattr(store, "DIRECTORY", str(folder))
        monkeypatch.setattr(module, "DIRECTORY", str(folder))
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
        self.folder, self.news = folder, []
        self.agent = SimpleNamespace(stopping=threading.Event(), note=lambda *words: self.news.append(words))
        self.index = Index(self.agent)
        self.index.subscribe(lambda added, removed: self.news.append((list(added), list(removed))))
        self.all, real = 0, store.Store.owners

        def owners(records, **match):
            there = real(records, **match)
            # Not before: a write during the first look would be part of it.
            self.all += not match
            return there

        monkeypatch.setattr(store.Store, "owners", owners)
        self.index.start()
        self.until(lambda: self.all == 1)
        self.ours = Records(threading.Lock(), lambda: True, self.index.noting)

    def until(self, holds) -> None:
        end = time.monotonic() + 10
        while not holds() and time.monotonic() < end:
            time.sleep(0.005)
        assert holds(), (self.news, self.all)

    def told(self) -> list:
        self.until(lambda: self.news)
        news, self.news[:] = list(self.news), []
        return news

    def quiet(self) -> bool:
        time.sleep(0.1)
        return not self.news


@pytest.fixture
def heard(tmp_path, monkeypatch):
    found = Heard(tmp_path / "records", monkeypatch)
    yield found
    found.agent.stopping.set()
    found.index.close()
    found.ours.close()


def write(records: store.Store, *add: Owner, drop=()) -> None:
    with records.lock():
        records.commit(drop, {owner: [] for owner in add}, {}, {})


def test_what_this_process_writes_is_read_alone(heard):
    write(heard.ours, A)
    assert heard.told() == [([A], [])]
    write(heard.ours, B)
    assert heard.told() == [([B], [])]
    with heard.ours.lock():
        heard.ours.set_phase(A.id, "active")
    active = replace(A, phase="active")
    assert heard.told() == [([active], [A])]
    write(heard.ours, C, drop=[B.id])
    assert heard.told() == [([C], [B])]
    with heard.ours.lock():
        heard.ours.forget(A.id)
    assert heard.told() == [([], [active])]
    assert heard.index.owners == {C.id: C} and heard.all == 1, "all were read again"


def test_what_others_write_is_seen(heard):
    with closing(store.Store()) as others:
        write(others, A)
        assert heard.told() == [([A], [])] and heard.all == 2
        write(heard.ours, B)
        assert heard.told() == [([B], [])] and heard.all == 2
        write(others, C, drop=[A.id])
        heard.until(lambda: heard.index.owners == {B.id: B, C.id: C})
    assert heard.all == 3


def test_what_others_write_in_between_is_seen(heard):
    """Before the index has looked at what this process wrote."""
    with closing(store.Store()) as others:
        for number in range(20):
            owner = replace(B, id=f"u{number}/m", ifindex=number)
            write(*((heard.ours, A) if number % 2 else (others, A)), drop=[A.id])
            write(*((others, owner) if number % 2 else (heard.ours, owner)))
        there = {owner.id: owner for owner in others.owners()}
    heard.until(lambda: heard.index.owners == there)
    assert len(there) == 21


def test_nothing_is_told_of_what_stays(heard):
    write(heard.ours, A)
    assert heard.told() == [([A], [])]
    write(heard.ours, A)
    assert heard.quiet()


def test_records_that_are_made_anew(heard):
    write(heard.ours, A)
    assert heard.told() == [([A], [])]
    (heard.folder / "state.db").unlink()
    heard.until(lambda: heard.index.owners == {} and (heard.folder / "state.db").exists())
    with closing(store.Store()) as others:
        write(others, B)
    heard.until(lambda: heard.index.owners == {B.id: B})


def test_locks_of_the_records_are_kept(heard):
    """The index opens their file: to close it would take away this process's locks."""
    with heard.ours.lock():
        heard.ours.owners()
        heard.quiet()
        with closing(sqlite3.connect(heard.folder / "state.db", timeout=0)) as other, pytest.raises(sqlite3.OperationalError):
            other.execute("UPDATE owner SET phase = 'x'")
            other.commit()


def test_what_a_killed_process_wrote_half(heard):
    """The count in the file is that of a write that is taken back."""
    with closing(store.Store()) as others:
        write(others, A)
        assert heard.told() == [([A], [])]
        journal = heard.folder / "state.db-journal"
        with others.lock():
            others._settle()
            others._db.execute("BEGIN IMMEDIATE")
            others._db.execute("UPDATE owner SET phase = 'x'")
            others._db.execute("PRAGMA application_id = 77")
            hot = journal.read_bytes()
            others._db.execute("COMMIT")
        journal.write_bytes(hot)
        heard.until(lambda: heard.all == 3)
    write(heard.ours, B)
    heard.until(lambda: heard.index.owners == {A.id: A, B.id: B})


def test_the_file_stays_open(heard):
    """A hook that reads during an agent's end would take what is being written for what a killed process left."""
    heard.agent.stopping.set()
    heard.index.look()
    for thread in [t for t in threading.enumerate() if t.name == "index"]:
        thread.join(10)
    assert os.fstat(heard.index._file).st_ino == (heard.folder / "state.db").stat().st_ino

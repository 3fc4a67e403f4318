"""The agent's place: its records and their locks."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from vmnet_hooks.agent import server
from vmnet_hooks.agent.place import Records
from vmnet_hooks.errors import Abandoned
from vmnet_hooks.hook import client
from vmnet_hooks.records import store


def untold(ids):
    return nullcontext()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the records are: there are none yet."""
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "records"))
    return tmp_path / "records"


def test_records_are_made_where_there_are_none(folder):
    """An agent comes before the first guest ever."""
    records = Records(threading.Lock(), lambda: True, untold)
    assert os.listdir(folder)
    with records.lock():
        assert records.owners() == []
    records.close()


def test_nothing_is_done_for_one_who_has_gone(folder):
    Records(threading.Lock(), lambda: True, untold).close()
    mutex = threading.Lock()
    records = Records(mutex, lambda: False, untold)
    with pytest.raises(Abandoned):
        with records.lock():
            raise AssertionError("the lock is had")
    assert not mutex.locked()
    records.close()


def test_who_speaks_up_after_the_end_is_refused(tmp_path):
    """He was let in before: his hook does its work by itself, not with records that are closed."""
    counted = []
    agent = SimpleNamespace(count=lambda what, **labels: counted.append((what, labels)), note=lambda *_: None)
    serving = server.Server(agent, {}, lambda _: None)
    path = str(tmp_path / "agent.sock")
    serving.start(server.listening(path))
    with socket.socket(socket.AF_UNIX) as hook:
        hook.settimeout(10)
        hook.connect(path)
        request = client.head("libvirt/qemu", argv=4) + b"qemu"
        hook.send(request[:10])
        end = time.monotonic() + 10
        while not serving._clients and time.monotonic() < end:
            time.sleep(0.01)
        serving.close(1.0)
        hook.send(request[10:])
        assert hook.recv(100).split() == [b"-", b"0"]
    assert counted == [("refused", {"reason": "ending"})]

"""The agent's place: its records and their locks."""

from __future__ import annotations

import os
import threading

import pytest

from vmnet_hooks import store
from vmnet_hooks.agent.resident import Abandoned, Records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the records are: there are none yet."""
    monkeypatch.setattr(store.Store.__init__, "__defaults__", (str(tmp_path / "records"),))
    return tmp_path / "records"


def test_records_are_made_where_there_are_none(folder):
    """An agent comes before the first guest ever."""
    records = Records(threading.Lock(), lambda: True)
    assert os.listdir(folder)
    with records.lock():
        assert records.owners() == []
    records.close()


def test_nothing_is_done_for_one_who_has_gone(folder):
    Records(threading.Lock(), lambda: True).close()
    mutex = threading.Lock()
    records = Records(mutex, lambda: False)
    with pytest.raises(Abandoned):
        with records.lock():
            raise AssertionError("the lock is had")
    assert not mutex.locked()
    records.close()

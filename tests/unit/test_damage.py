"""Records that can't be used any more are moved away, and those that can stay."""

import os

import pytest

from vmnet_hooks.errors import Damaged
from vmnet_hooks.model.objects import Sysctl
from vmnet_hooks.model.owner import Nic
from vmnet_hooks.model.plan import Change
from vmnet_hooks.records import damage
from vmnet_hooks.records.store import Store

KEY = Sysctl("net/ipv4/conf/tap1/forwarding", "1")
NIC = Nic(
    id="u1/m1", frontend="libvirt", domain="d1", domain_id="u1", ifname="tap1", ifindex=7, mac="m1", network="lan", since=1.0
)


@pytest.fixture
def folder(tmp_path):
    records = Store(str(tmp_path))
    records.commit([], {NIC: [KEY.key]}, {KEY.key: KEY}, {})
    records.open_journal("plug d2", [Change(None, KEY)])
    records.close()
    return tmp_path


def test_what_is_whole_stays(folder):
    before = {name: (folder / name).read_bytes() for name in ("state.db", "journal")}
    assert damage.set_aside(str(folder)) == []
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert damage.set_aside(str(folder / "none")) == []


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def scribble(path):
    with open(path, "r+b") as file:
        file.write(b"\xa5" * 4096)


def page(path):
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 4096)


def replace(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def sense(path):
    with Store(str(path.parent))._db as database:
        database.execute("UPDATE resource SET want = '{}'")


@pytest.mark.parametrize(
    ("name", "how"),
    [*(("state.db", how) for how in (cut, scribble, page, replace, sense)), ("journal", scribble), ("journal", replace)],
)
def test_what_is_damaged_goes(folder, name, how):
    how(folder / name)
    if how is not page:
        # SQLite may not need that page.
        with pytest.raises(Damaged, match="`vmnet-hook repair` moves it away"):
            records = Store(str(folder))
            [records.claims(owner.id) for owner in records.owners()]
            records.journal()
    assert damage.set_aside(str(folder)) == [f"{folder}/{name}.damaged-1"]
    assert damage.set_aside(str(folder)) == []
    records = Store(str(folder))
    assert bool(records.owners()) is (name != "state.db") and records.journal()[0] == ""
    records.close()


def test_a_lock_that_is_none(folder):
    replace(folder / "lock")
    with pytest.raises(Damaged, match=f"{folder}/lock: .*`vmnet-hook repair` moves it away"):
        with Store(str(folder)).lock():
            pass
    assert damage.set_aside(str(folder)) == [f"{folder}/lock.damaged-1"]
    assert Store(str(folder)).owners()

"""What the kinds of owners say of themselves, and what the engine makes of it."""

from dataclasses import replace

import pytest
from scenario import Host, guest

from vmnet_hooks.engine import guests
from vmnet_hooks.model.declaration import Config
from vmnet_hooks.model.guest import Domain, Vif
from vmnet_hooks.model.owner import PREPARE_SECONDS, DescribedNetwork, Nic, Part, Preparation, nics
from vmnet_hooks.records import clock

DOM1 = Domain("dom1", "u1")
NIC = Nic.of(DOM1, Vif("m1", "tap1", addresses=("192.0.2.1",)), "public", "libvirt", 7, 100.0)
PREPARATION = Preparation.of(DOM1, "libvirt", 100.0)
PART = Part(id="bridge:br0", name="br0", frontend="auto")
DESCRIBED = DescribedNetwork(id="ifupdown:eth5/inet", name="eth5-inet", frontend="ifupdown")
ALL = (NIC, PREPARATION, PART, DESCRIBED)
LINKS = {"tap1": 7}
NOTHING = Config({})
IMPLIED = '[networks.forty]\nmode = "bridged"\nbridge = "br40"\nuplink = "eth3"\nvlan = 40\n'
FORTY = guest(1, ("forty", ()))


def test_words():
    assert [owner.label for owner in ALL] == ["dom1", "dom1", "bridge br0", "ifupdown eth5/inet"]
    assert [owner.user for owner in ALL] == ["dom1", "dom1", "the node", "the node"]
    assert [owner.summary for owner in ALL] == [
        "tap1 on public (192.0.2.1)",
        "what its start needed",
        "bridge br0",
        "ifupdown eth5/inet",
    ]
    assert [f"{owner.where}: {owner.loss}" for owner in ALL] == [
        "public: tap1 is gone",
        "prepared: was not started",
        "br0: br0 is gone",
        "eth5-inet: eth5-inet is gone",
    ]


@pytest.mark.parametrize("owner", ALL, ids=lambda owner: type(owner).__name__)
def test_columns(owner):
    """What a row of the records is made of, and comes back from."""
    columns = owner.columns()
    rest = {name: value for name, value in columns.items() if name != "name"}
    assert len(rest) == 16
    assert type(owner).of_columns(rest) == owner
    assert replace(owner, phase="leftover").is_left_over and not owner.is_left_over


@pytest.mark.parametrize(
    "gone, links, passed, ended",
    [
        ((), LINKS, 0.0, []),
        # The link has another name, and another one has its name.
        ((), {"x": 7}, 0.0, []),
        ((), {"tap1": 8, "x": 7}, 0.0, []),
        (("u1",), LINKS, 0.0, [NIC]),
        ((), {}, 0.0, [NIC]),
        ((), {"tap1": 8}, 0.0, [NIC]),
        # Its hypervisor may not call it running yet.
        (("u1",), LINKS, PREPARE_SECONDS, [NIC]),
        ((), LINKS, PREPARE_SECONDS + 1, [PREPARATION]),
    ],
)
def test_which_have_ended(gone, links, passed, ended):
    names = {number: name for name, number in links.items()}

    def name_now(nic: Nic) -> str:
        return names.get(nic.ifindex, "")

    assert [owner for owner in ALL if owner.has_ended(gone, links.get, name_now, 100.0 + passed)] == ended


def test_which_follow_the_files():
    """A front end described the network of a NIC if its name has a colon; what only such NICs need follows no file either."""
    plain, described = NIC, replace(NIC, network="nat:eth0")
    assert plain.described == ("", "") and described.described == ("nat", "eth0")
    needing = {"bridge:br0": [described]}
    follow = [owner for owner in (plain, described, *ALL[1:]) if owner.follows_files(NOTHING, needing.__getitem__)]
    assert follow == [plain]
    assert replace(PART, frontend="cli").follows_files(NOTHING, needing.__getitem__)
    assert PART.follows_files(NOTHING, {"bridge:br0": [described, plain]}.__getitem__)
    assert nics([*ALL, described]) == [plain, described]


def test_a_part_that_is_only_needed():
    assert replace(PART, frontend="cli").is_asked_for and replace(PART, frontend="cli").as_needed() == PART


def test_a_start_that_was_prepared_and_never_came(tmp_path, monkeypatch):
    host = Host(tmp_path, IMPLIED)
    world = host.everything()[:2]
    host.prepare(FORTY)
    (preparation,) = [owner for owner in host.kept().owners() if isinstance(owner, Preparation)]
    assert host.check() == [] and host.check(gone={FORTY.id}) == []
    # Another front end knows the guest by its name, and calls it running.
    host.call(lambda session: guests.activate(session.config, session.records, lambda calls: None, FORTY))
    assert preparation in host.kept().owners()

    late = preparation.since + PREPARE_SECONDS + 1
    monkeypatch.setattr(clock, "now", lambda _: late)
    assert [(drift.owner, drift.what) for drift in host.check()] == [(FORTY.name, "prepared: was not started")]
    host.repair()
    host.assert_no_records()
    assert host.everything()[:2] == world

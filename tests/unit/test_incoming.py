"""Live migration, on its destination: until the guest arrives it attracts nothing, and then it has what any guest has."""

import pytest
from fake_kernel import Killed, label
from scenario import Host, difference, guest
from test_laws import HOSTROUTE

from vmnet_hooks.declared import compose
from vmnet_hooks.engine import guests
from vmnet_hooks.engine.guests import activate, announcements
from vmnet_hooks.engine.migration import arrive, untracked
from vmnet_hooks.errors import ConfigError, ConflictError, KernelError
from vmnet_hooks.model.guest import Domain
from vmnet_hooks.model.objects import NftElement, ProxyNeighbour, Route

ROUTED = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]), ("lan", ()))
CASES = {
    "routed and bridged": (ROUTED, {}),
    "gateway": (guest(3, ("edge", ["198.51.100.5", "2001:db8:1::5"])), {}),
    "hostroute": (guest(4, ("plain", ["192.0.2.40", "2001:db8::40", "10.98.0.0/16"])), {"toml": HOSTROUTE}),
    "hostroute with NAT": (guest(6, ("private", ["10.0.6.1", "10.97.0.0/24"])), {"toml": HOSTROUTE}),
}
cases = pytest.mark.parametrize("domain, facts", CASES.values(), ids=CASES)


def incoming(host: Host, domain: Domain) -> list:
    return host.call(guests.plug, domain, "libvirt", incoming=True)


def phases(host: Host) -> list[str]:
    return [owner.phase for owner in host.kept().owners()]


def twins(tmp_path, domain, facts) -> tuple[Host, Host]:
    """Two hosts with the guest's taps: one where it is started, one where it comes in."""
    hosts = []
    for name in ("plain", "destination"):
        (tmp_path / name).mkdir()
        hosts.append(Host(tmp_path / name, **facts))
        hosts[-1].add_taps(domain)
    return hosts[0], hosts[1]


def claims(host: Host) -> list:
    return host.records()["claim"], host.records()["resource"]


@cases
def test_withheld_is_what_attracts_and_no_more(domain, facts, tmp_path):
    plain, destination = twins(tmp_path, domain, facts)
    plain.plug(domain)
    incoming(destination, domain)
    missing = difference(plain.kernel.snapshot(), destination.kernel.snapshot())
    wanted = set()
    for claim in domain.claims:
        for address in claim.addresses if claim.network != "lan" else ():
            table = {"public": 222, "edge": 333}.get(claim.network, 254)
            length = "" if "/" in address else "/128" if ":" in address else "/32"
            wanted.add(f"route {table} {address}{length}")
            uplink = {"edge": "eth2"}.get(claim.network, "eth1")
            if "/" not in address and claim.network != "private" and (":" in address or claim.network == "plain"):
                wanted.add(f"proxy {uplink} {address}")
    assert missing.keys() == wanted


@cases
def test_arrival_completes_it(domain, facts, tmp_path):
    plain, destination = twins(tmp_path, domain, facts)
    plain.plug(domain)
    incoming(destination, domain)
    destination.kernel.clear_faults()
    arrived = destination.call(arrive, domain.id)
    assert [owner.phase for owner in arrived] == ["active"]
    assert not difference(plain.kernel.snapshot(), destination.kernel.snapshot())
    assert claims(plain) == claims(destination)
    changed = [change.subject for step in destination.kernel.steps for change in step]
    assert changed and all(isinstance(r, Route | ProxyNeighbour) for r in changed)
    assert not destination.check()
    # Whoever comes second has nothing to do, and nothing to announce.
    destination.kernel.clear_faults()
    assert destination.call(arrive, domain.id) == [] and destination.kernel.calls == 0


@cases
def test_cancelled_is_identity(domain, facts, tmp_path):
    host, _ = twins(tmp_path, domain, facts)
    before = host.everything()
    incoming(host, domain)
    host.unplug(domain)
    assert host.everything() == before
    assert host.call(arrive, domain.id) == []
    assert host.everything() == before


@cases
def test_arrival_fails_at_every_step(domain, facts, tmp_path):
    host, _ = twins(tmp_path, domain, facts)
    incoming(host, domain)
    before = host.everything()
    for step in range(100):
        host.kernel.clear_faults()
        host.kernel.fail_at = step
        try:
            host.call(arrive, domain.id)
            break
        except KernelError as error:
            assert label(host.kernel.steps[step]) in str(error)
        assert host.everything() == before, f"step {step}"
    assert 0 < step < 99


@cases
def test_arrival_is_killed_at_every_step(domain, facts, tmp_path):
    """The next one completes it."""
    plain, host = twins(tmp_path, domain, facts)
    plain.plug(domain)
    incoming(host, domain)
    for step in range(100):
        host.kernel.clear_faults()
        host.kernel.kill_at = step
        try:
            host.call(arrive, domain.id)
            break
        except Killed:
            assert "incoming" in phases(host)
    assert 0 < step < 99
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())


@cases
def test_what_is_withheld_is_not_missing(domain, facts, tmp_path):
    host, _ = twins(tmp_path, domain, facts)
    incoming(host, domain)
    world = host.kernel.snapshot()
    assert not host.check()
    host.kernel.clear_faults()
    assert not host.repair() and host.kernel.calls == 0
    # Again: the hook that was served twice.
    records = host.records()
    incoming(host, domain)
    assert not difference(world, host.kernel.snapshot()) and host.records() == records
    # What is not withheld is mended as ever, and nothing else with it.
    damage = [key for key, r in host.kernel.world.items() if isinstance(r, NftElement)]
    for key in damage:
        del host.kernel.world[key]
    assert damage and host.repair()
    assert not difference(world, host.kernel.snapshot())


@cases
def test_a_plain_start_completes_it(domain, facts, tmp_path):
    plain, host = twins(tmp_path, domain, facts)
    plain.plug(domain)
    incoming(host, domain)
    host.plug(domain)
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())
    assert set(phases(host)) == {"plugged"}
    # Once here it stays, whatever is expected.
    incoming(host, domain)
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())
    assert set(phases(host)) == {"plugged"}


@cases
def test_a_domain_that_is_called_running_has_arrived(domain, facts, tmp_path):
    plain, host = twins(tmp_path, domain, facts)
    plain.plug(domain)
    incoming(host, domain)
    host.call(guests.reassert, domain)
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())
    assert set(phases(host)) == {"plugged"}


def test_a_guest_that_nobody_saw_arriving_is_told_of(tmp_path):
    host, _ = twins(tmp_path, ROUTED, {})
    incoming(host, ROUTED)
    host.kernel.heard.add(ROUTED.vifs[0].ifname)
    [drift] = host.check()
    assert "has arrived" in drift.what and drift.remedy == "vmnet-hook start d1"
    host.plug(ROUTED)
    assert not host.check()


def test_the_configuration_is_gone_when_it_arrives(tmp_path):
    host, _ = twins(tmp_path, ROUTED, {})
    incoming(host, ROUTED)
    before = host.everything()
    host.configure("")
    with pytest.raises(ConfigError, match="has arrived"):
        host.call(arrive, ROUTED.id)
    host.call(guests.reassert, ROUTED)
    assert "incoming" in phases(host)
    assert host.everything()[:2] == before[:2]


def test_an_address_that_is_taken_is_refused_before_the_guest_comes(tmp_path):
    host = Host(tmp_path)
    other = guest(2, ("public", ["192.0.2.10"]))
    for domain in (other, ROUTED):
        host.add_taps(domain)
    host.plug(other)
    with pytest.raises(ConflictError, match="192.0.2.10"):
        incoming(host, ROUTED)
    # And the other way round: an address that is awaited is not free.
    host.unplug(other)
    incoming(host, ROUTED)
    with pytest.raises(ConflictError, match="192.0.2.10"):
        host.plug(other)


def test_started_announces_nothing_of_a_guest_that_is_not_here(tmp_path):
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    session = host.session()
    sent = []
    session.records.expect(ROUTED.uuid)
    assert session.records.expects(ROUTED.uuid), "looking does not consume"
    guests.plug(session, ROUTED, "libvirt", incoming=session.records.expects(ROUTED.uuid))
    owners = activate(session.config, session.records, sent.extend, ROUTED)
    assert [owner.phase for owner in owners] == ["incoming", "active"] and not sent
    assert not session.records.expects(ROUTED.uuid)
    # A second `started` (the agent died half-way) changes nothing.
    assert [owner.phase for owner in activate(session.config, session.records, sent.extend, ROUTED)] == ["incoming", "active"]
    assert not sent
    arrived = arrive(session, ROUTED.id)
    tap = ROUTED.vifs[0].ifname
    assert announcements(session.config, arrived) == [("eth1", "192.0.2.10", tap), ("eth1", "2001:db8::10", tap)]
    assert untracked(session.config, arrived) == ["192.0.2.10", "2001:db8::10"]
    session.records.close()


def test_the_gateway_keeps_what_it_tracks(tmp_path):
    """Its translations of the guest's connections are as good as before."""
    domain, facts = CASES["gateway"]
    host, _ = twins(tmp_path, domain, facts)
    incoming(host, domain)
    session = host.session()
    assert untracked(session.config, arrive(session, domain.id)) == []
    session.records.close()


def test_an_unfiltered_bridged_guest_waits_for_nothing(tmp_path):
    domain = guest(1, ("lan", []))
    plain, host = twins(tmp_path, domain, {})
    plain.plug(domain)
    [owner] = incoming(host, domain)
    assert owner.phase == "plugged"
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())
    assert compose.withheld(*guests.bind(domain, host.session().config)[0], plain.claimed()) == {}


def test_the_mac_of_a_filtered_bridged_guest_waits_for_it(tmp_path):
    """Until then its port learns, as it does with the guest's first frame."""
    domain = guest(1, ("lan", ["10.7.0.10"]))
    plain, host = twins(tmp_path, domain, {})
    plain.plug(domain)
    [owner] = incoming(host, domain)
    waits = {f"port-mac {owner.ifname} {owner.mac}", f"link {owner.ifname} learning"}
    assert owner.phase == "incoming"
    assert not waits & host.claimed().keys()
    assert host.kernel.world[f"link {owner.ifname} learning"].value == "on"
    host.call(arrive, domain.id)
    assert waits <= host.claimed().keys() and phases(host) == ["active"] and host.check() == []
    assert not difference(plain.kernel.snapshot(), host.kernel.snapshot())
    host.unplug(domain)
    assert not waits & host.kernel.world.keys()

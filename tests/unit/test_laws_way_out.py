"""The law of the way out: from every declaration to every other one, by `up`, the host's gateways answer afterwards in both
families, or the command fails and everything is as it was. Also with an agent that heals at once, and with --confirm-within."""

from dataclasses import replace
from itertools import product

import pytest
from scenario import Build, Host
from test_laws_hostnet import assert_same, everything

from vmnet_hooks.engine import host as engine_host
from vmnet_hooks.engine import takeover
from vmnet_hooks.engine.healing import mend
from vmnet_hooks.errors import ConfigError, KernelError, MissingLink, NotYet, VmnetError
from vmnet_hooks.model.objects import Address, LinkAttribute, Route

GATEWAY4, GATEWAY6 = "203.0.113.1", "2001:db8:ffff::1"
OWN4, OWN6 = "203.0.113.2/24", "2001:db8:ffff::2/64"
ADDRESSES = f'addresses = ["{OWN4}", "{OWN6}"]\n'
GATEWAYS = f'gateway = ["{GATEWAY4}", "{GATEWAY6}"]\n'


def bridge(*lines: str, name: str = "xbr0", ports: str = '"eth0"') -> str:
    return f"[bridges.{name}]\nports = [{ports}]\n" + "".join(f"{line.rstrip()}\n" for line in lines)


ADOPT = 'adopt = "eth0"'
STATES = {
    "nothing": "",
    "adopt": bridge(ADOPT),
    "adopt dropped": bridge(),
    "addresses and gateway": bridge(ADDRESSES, GATEWAYS),
    "addresses without a gateway": bridge(ADDRESSES),
    "addresses of IPv4 alone": bridge(f'addresses = ["{OWN4}"]', f'gateway = "{GATEWAY4}"'),
    "another address": bridge(f'addresses = ["203.0.113.9/24", "{OWN6}"]', GATEWAYS),
    "another gateway": bridge(ADDRESSES, f'gateway = ["203.0.113.77", "{GATEWAY6}"]'),
    "another subnet": bridge('addresses = ["10.9.9.9/24"]'),
    "port dropped": bridge(ports=""),
    "port added": bridge(ADOPT, ports='"eth0", "eth3"'),
    "adopt dropped, port added": bridge(ports='"eth0", "eth3"'),
    "adopt another": bridge('adopt = "eth3"', ports='"eth0", "eth3"'),
    "adopt another, port dropped": bridge('adopt = "eth3"', ports='"eth3"'),
    "STP": bridge(ADOPT, "stp = true"),
    "MTU": bridge(ADOPT, "mtu = 1400"),
    "MAC": bridge(ADOPT, 'mac = "02:00:00:00:77:01"'),
    "renamed": bridge(ADOPT, name="brx"),
    "renamed, adopt dropped": bridge(name="brx"),
    "renamed, addresses": bridge(ADDRESSES, GATEWAYS, name="brx"),
    "in a bond": f'[bonds.bond0]\nports = ["eth0", "eth3"]\n{ADDRESSES}{GATEWAYS}',
    "bond below": '[bonds.bond0]\nports = ["eth0", "eth3"]\n' + bridge(ADDRESSES, GATEWAYS, ports='"bond0"'),
    "adopted by a bond": '[bonds.bond0]\nports = ["eth0", "eth3"]\nadopt = "eth0"\n',
    "adopted through a bond": '[bonds.bond0]\nports = ["eth3", "eth0"]\n' + bridge(ADOPT, ports='"bond0"'),
    "VLAN on the bridge": bridge(ADOPT) + '[vlans."xbr0.5"]\nparent = "xbr0"\nid = 5\naddresses = ["10.5.0.1/24"]\n',
    "VLAN of the port": '[vlans."eth0.5"]\nparent = "eth0"\nid = 5\n' + bridge(ports='"eth0.5"'),
    "routed uplink": '[networks.r]\nmode = "routed"\nuplink = "eth0"\ntable = 222\nrole = "router"\n'
    'ipv4 = { subnet = "10.7.0.0/24", gateway = "10.7.0.1" }\n',
}


class Wire:
    """Asks the fake kernel's world: the gateways are on eth0's wire."""

    def __init__(self, host: Host) -> None:
        self.kernel = host.kernel

    def answering(self, gateways, seconds: float) -> dict[tuple[str, str], float]:
        return {(link, gateway): 0.001 for link, gateway in gateways if gateway in (GATEWAY4, GATEWAY6) and self.leads(link)}

    def leads(self, link: str) -> bool:
        links = {link, *self.kernel.below(link)} if link in self.kernel.links else set()
        return "eth0" in links and not self.kernel.master(link) and all(self.kernel.links[name].up for name in links)

    def guard(self, _deadline: float) -> None:
        pass


def is_reached(host: Host) -> bool:
    """Whether the host reaches its gateways: through a link with an address of the subnet, and a default route."""
    world, wire = host.kernel.world, Wire(host)

    def serves(want: tuple[str, str, str]) -> bool:
        everywhere, gateway, head = want
        routes = [r for r in world.values() if isinstance(r, Route) and (r.table, r.dst, r.via) == (254, everywhere, gateway)]
        at = {r.ifname for r in world.values() if isinstance(r, Address) and r.address.startswith(head)}
        return any(route.dev in at and wire.leads(route.dev) for route in routes)

    return serves(("0.0.0.0/0", GATEWAY4, "203.0.113.")) and serves(("::/0", GATEWAY6, "2001:db8:ffff:"))


class Taken(Build):
    """A host that took its uplink over, then got another declaration."""

    def __init__(self, toml: str) -> None:
        self.toml = toml

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taken) and other.toml == self.toml

    def __hash__(self) -> int:
        return hash(self.toml)

    def build(self, path) -> Host:
        host = Host(path, STATES["adopt"])
        host.kernel.put(
            Address("eth0", OWN4),
            Route(254, "0.0.0.0/0", "eth0", GATEWAY4, 3),
            Address("eth0", OWN6),
            Route(254, "::/0", "eth0", GATEWAY6, 3),
        )
        # A bridge could not declare it.
        del host.kernel.world[Route.key_of(222, "203.0.113.0/24")]
        assert is_reached(host)
        host.up(watch=Wire(host))
        host.configure(self.toml)
        attempt(host)
        return host


def state(host: Host) -> tuple:
    """World, links and records. A default route may be ours afterwards; a bridge made again may have another link-local address;
    how the records store who claims what does not matter."""
    world, links, _ = everything(host)
    world = {key: replace(r[0], proto=0) if isinstance(r, tuple) and isinstance(r[0], Route) else r for key, r in world.items()}
    world.pop(LinkAttribute.key_of("xbr0", "lladdr"), None)
    kept = host.kept()
    claims = {owner.id: (owner, kept.claimed(owner.id)) for owner in kept.owners()}
    return world, links, {**claims, **kept.records(kept.resources())}


def attempt(host: Host, **how) -> bool:
    """`up`; checks the law. Returns whether it succeeded."""
    before = state(host)
    try:
        done = host.call(engine_host.up, watch=Wire(host), **how)
    except VmnetError:
        assert_same(before, state(host), "refused")
        return False
    assert is_reached(host) or how
    return not done.failed


@pytest.mark.parametrize(("first", "then"), product(STATES, STATES), ids=lambda name: name.replace(" ", "_"))
def test_from_every_declaration_to_every_other(first, then, tmp_path):
    host = Taken(STATES[first]).host(tmp_path / "host")
    assert is_reached(host)
    before = state(host)
    host.configure(STATES[then])
    # Unconfirmed, with an agent that heals meanwhile: as before.
    attempt(host, confirm_within=30)
    if host.kept().pending():
        host.call(mend, None)
        host.call(takeover.revert)
        assert_same(before, state(host), "put back")
        host.call(mend, None)
        assert_same(before, state(host), "healed after it was put back")
    done = attempt(host)
    up_ = state(host)
    host.call(mend, None)
    assert_same(up_, state(host), "healed")
    if done:
        assert host.check() == []
    if host.kept().of_host():
        return
    assert host.kernel.master("eth0") == ""


POSSIBLE = {
    ("adopt", "addresses and gateway"),
    ("addresses and gateway", "another address"),
    ("adopt", "port dropped"),
    ("adopt", "port added"),
    ("adopt", "renamed"),
    ("adopt", "nothing"),
    ("adopt", "adopted by a bond"),
    ("adopt", "adopted through a bond"),
    ("adopted by a bond", "adopted through a bond"),
    ("adopted through a bond", "adopt"),
    ("nothing", "adopted through a bond"),
    ("nothing", "adopted by a bond"),
    ("adopted through a bond", "nothing"),
    ("adopt", "MTU"),
    ("adopt", "VLAN on the bridge"),
    ("adopt", "VLAN of the port"),
}


@pytest.mark.parametrize(("first", "then"), sorted(POSSIBLE))
def test_what_is_not_refused(first, then, tmp_path):
    host = Taken(STATES[first]).host(tmp_path / "host")
    host.configure(STATES[then])
    host.up(watch=Wire(host))
    assert is_reached(host) and host.check() == []


def test_down_after_the_adoption_was_declared(tmp_path):
    """What `adopt` set on the port goes back when the bridge goes, also if the bridge declared it by then."""
    host = Taken(STATES["addresses and gateway"]).host(tmp_path / "host")
    host.down()
    assert host.kernel.master("eth0") == "" and host.kernel._value("sysctl net/ipv6/conf/eth0/disable_ipv6") == "0"
    host.assert_no_records()
    assert LinkAttribute("eth0", "state", "up") in host.kernel.world.values()


def test_nobody_heals_what_waits_to_be_confirmed(tmp_path):
    """An agent that put a port back would work against the admin who tries things, and against the guard."""
    host = Taken(STATES["adopt"]).host(tmp_path / "host")
    host.configure(STATES["port added"])
    host.up(watch=Wire(host), confirm_within=30)
    host.kernel._set_link(LinkAttribute("eth3", "master", ""))
    assert not host.call(mend, None).changes and host.kernel.master("eth3") == ""
    host.call(takeover.confirm)
    assert host.call(mend, None).changes and host.kernel.master("eth3") == "xbr0"


def test_an_address_that_comes_later_is_taken_over_too(tmp_path):
    host = Taken(STATES["adopt"]).host(tmp_path / "host")
    host.kernel.put(Address("eth0", "203.0.113.50/24"))
    assert [owner.id for owner in host.up(watch=Wire(host))] == ["bridge:xbr0"]
    assert Address("xbr0", "203.0.113.50/24").key in host.kernel.world
    assert Address("eth0", "203.0.113.50/24").key not in host.kernel.world
    assert host.check() == [] and host.up() == []
    host.down()
    assert Address("eth0", "203.0.113.50/24").key in host.kernel.world


def test_a_port_that_is_not_configured_yet(tmp_path):
    """It may be that `up` comes before ifup, or in the middle of it."""
    host = Host(tmp_path, STATES["adopt"] + "[bridges.other]\n")
    with pytest.raises(NotYet, match=r"bridges.xbr0.adopt: eth0 has no address yet; configure it \(ifup eth0\), or remove adopt"):
        host.up()
    assert [owner.id for owner in host.kept().of_host()] == ["bridge:other"], "the rest comes up"
    host.kernel.put(Address("eth0", OWN4))
    host.kernel.underway.add("eth0")
    with pytest.raises(NotYet):
        host.up()
    host.kernel.underway.clear()
    host.up()
    assert host.check() == []


def test_the_gateways_that_answered_are_told(tmp_path):
    host = Taken(STATES["nothing"]).host(tmp_path / "host")
    host.configure(STATES["adopt"])
    done = host.call(engine_host.up, watch=Wire(host))
    assert set(done.answers) == {GATEWAY4, GATEWAY6}


def test_a_default_route_that_is_dropped(tmp_path):
    host = Taken(STATES["addresses and gateway"]).host(tmp_path / "host")
    host.configure(STATES["addresses without a gateway"])
    before = state(host)
    with pytest.raises(KernelError, match=rf"there is no IPv4 default route any more \({GATEWAY4} answered; if that is meant"):
        host.up(watch=Wire(host))
    assert_same(before, state(host), "put back")
    # The remedy.
    host.up(watch=Wire(host), confirm_within=60)
    host.call(takeover.confirm)
    assert not is_reached(host) and host.check() == []


@pytest.mark.parametrize("remedy", ["adopt", "port dropped", "addresses and gateway"])
def test_the_remedies_of_a_dropped_adopt(remedy, tmp_path):
    host = Taken(STATES["adopt"]).host(tmp_path / "host")
    host.configure(STATES["adopt dropped"])
    with pytest.raises(
        ConfigError,
        match='ports: xbr0 took over 203.0.113.2/24, .*; keep adopt = "eth0" there .*, declare all of it in .*, or take eth0 out',
    ):
        host.up(watch=Wire(host))
    host.configure(STATES[remedy])
    host.up(watch=Wire(host))
    assert is_reached(host) and host.check() == []


def test_parts_fail_alone(tmp_path):
    """A NIC is missing at boot: what stands on it fails, and nothing else."""
    toml = bridge(ADOPT) + bridge(name="br9", ports='"usb0"') + '[vlans."br9.5"]\nparent = "br9"\nid = 5\n'
    host = Taken(STATES["nothing"]).host(tmp_path / "host")
    host.configure(toml)
    done = host.call(engine_host.up, watch=Wire(host))
    assert [owner.id for owner in done.up] == ["bridge:xbr0"] and is_reached(host)
    problems = [str(error).partition("vmnet.toml: ")[2] for error in done.failed]
    assert problems[0].startswith("bridges.br9.ports: usb0 does not exist; ")
    assert problems[1] == 'vlans."br9.5": stands on bridge br9, which is not up' and len(problems) == 2
    with pytest.raises(MissingLink):
        host.up("br9")
    host.kernel.add_link("usb0", up=True)
    host.up()
    assert host.check() == []


def test_a_bond_does_with_the_nics_that_are_there(tmp_path):
    host = Host(tmp_path, '[bonds.bond0]\nports = ["eth3", "usb0"]\nprimary = "usb0"\naddresses = ["10.3.0.2/24"]\n')
    done = host.call(engine_host.up)
    assert [owner.id for owner in done.up] == ["bond:bond0"] and host.kernel.master("eth3") == "bond0"
    assert [str(error).partition("bonds.")[2] for error in done.failed] == [
        "bond0.ports: usb0 does not exist; bond0 is up without it"
    ]
    assert [(drift.kind, drift.remedy) for drift in host.check()] == [("missing", "vmnet-hook up bond:bond0, once it is there")]
    host.kernel.add_link("usb0", up=True)
    host.up("bond:bond0")
    assert host.kernel.master("usb0") == "bond0" and host.check() == []


def test_an_alternative_name(tmp_path):
    host = Host(tmp_path, STATES["adopt"].replace("eth0", "eno1"))
    host.kernel.put(Address("eth0", OWN4))
    host.kernel.links["eno1"] = replace(host.kernel.links["eth0"], name="eth0")
    host.kernel.put(*(replace(r, ifname="eno1") for r in [*host.kernel.world.values()] if getattr(r, "ifname", "") == "eth0"))
    with pytest.raises(ConfigError, match="bridges.xbr0.ports: eno1 is an alternative name of eth0; write eth0$"):
        host.up()

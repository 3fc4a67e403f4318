"""Bridges of the host: up is idempotent and silent, down is its inverse, an edit changes the difference, whatever happens."""

from __future__ import annotations

import json
import re

import pytest
from lab.domains import Interface
from lab.forkserver import points
from lab.guest import Nic, wired
from lab.hostnet import Command, Host, Pinging, attribute, commands, exists, ports, refusal, without_birth
from lab.routed import call, eventually, ping
from lab.single import PUBLIC, same

TWO_PORTS = '[bridges.guestbr0]\nports = ["eth1", "eth2"]\n'
ADDRESSES = """
[bridges.guestbr0]
ports = ["eth1"]
addresses = ["10.7.0.254/24", "198.18.5.1/28", "fd07::fe/64"]
"""
DECLARED = {
    "portless": ("[bridges.guestbr0]\n", {"bridge/stp_state": "0", "bridge/forward_delay": "0", "mtu": "1500"}),
    "two ports": (TWO_PORTS, {"bridge/stp_state": "0", "bridge/forward_delay": "0", "address": "02:00:00:00:01:01"}),
    "STP": (
        TWO_PORTS + "stp = true\nforward_delay = 4\nhello_time = 1\nmax_age = 6\npriority = 4096\n",
        {
            "bridge/stp_state": "1",
            "bridge/forward_delay": "400",
            "bridge/hello_time": "100",
            "bridge/max_age": "600",
            "bridge/priority": "4096",
        },
    ),
    "STP by default": (TWO_PORTS + "stp = true\n", {"bridge/stp_state": "1", "bridge/forward_delay": "1500"}),
    "addresses": (ADDRESSES, {"bridge/stp_state": "0"}),
    "group_fwd_mask": (TWO_PORTS + "group_fwd_mask = 0x4000\n", {"bridge/group_fwd_mask": "0x4000"}),
    "ageing": (TWO_PORTS + "ageing = 17\n", {"bridge/ageing_time": "1700"}),
    "MTU": (TWO_PORTS + "mtu = 1400\n", {"mtu": "1400"}),
    "MAC": (TWO_PORTS + 'mac = "02:00:00:aa:bb:cc"\n', {"address": "02:00:00:aa:bb:cc"}),
    "hw_port": (TWO_PORTS + 'hw_port = "eth2"\n', {"address": "02:00:00:00:02:01"}),
    "order of ports": ('[bridges.guestbr0]\nports = ["eth2", "eth1"]\n', {"address": "02:00:00:00:02:01"}),
    "no snooping": (TWO_PORTS + "mcast_snooping = false\n", {"bridge/multicast_snooping": "0"}),
    "several": (TWO_PORTS + '[bridges.br-x]\nports = ["eth3"]\n[bridges.br-y]\n', {"bridge/stp_state": "0"}),
    "routed network": (
        PUBLIC.replace("up0", "eth1") + 'role = "router"\n[bridges.guestbr0]\nports = ["eth2"]\n',
        {"address": "02:00:00:00:02:01"},
    ),
}
GATEWAY = """
[bridges.guestbr0]
ports = ["eth1"]
addresses = ["10.7.0.254/24", "fd07::fe/64"]
gateway = ["10.7.0.1", "fd07::1"]
"""


@pytest.fixture
def lab():
    with Host() as running:
        yield running


# --- up and down ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DECLARED)
def test_down_after_up(lab, case):
    """What the kernel has is what was declared; twice is once; and then it is as before."""
    config, attributes = DECLARED[case]
    lab.host.config(config)
    before = lab.state()
    plan = commands(lab.vmnet("plan", "up"))
    same(before, lab.state())
    assert plan
    lines = lab.vmnet("up").splitlines()
    names = re.findall(r"\[bridges\.(\S+)\]", config)
    assert all(f"up bridge {name}" in lines for name in names), lines
    for name, value in attributes.items():
        assert attribute(lab.host, "guestbr0", name) == value, name
    for name in names:
        assert attribute(lab.host, name, "ifalias") == "vmnet-hooks" and "UP" in lab.host.run(f"ip -o link show {name}").stdout
        if name != "guestbr0" or case != "addresses":
            assert lab.host.sysctl(f"ipv6/conf/{name}/disable_ipv6") == "1"
    for port in ports(lab.host, "guestbr0"):
        assert lab.host.sysctl(f"ipv6/conf/{port}/disable_ipv6") == "1"
        assert ",UP" in lab.host.run(f"ip -o link show {port}").stdout
        assert attribute(lab.host, port, "brport/state") == ("3" if "STP" not in case else "1"), port
    up = lab.state()
    assert lab.vmnet("check") == "ok\n"
    assert lab.vmnet("up") == "up: nothing to do\n"
    assert commands(lab.vmnet("plan", "up")) == []
    same(up, lab.state())
    assert commands(lab.vmnet("plan", "down"))
    lab.vmnet("down")
    same(before, lab.state())
    if case == "addresses":
        lab.vmnet("up")
        same(without_birth(up), without_birth(lab.state()))
        lab.vmnet("down")
        same(before, lab.state())


def test_gateway(lab):
    """The default routes through the bridge; a host that has some already keeps them, or is told."""
    host = lab.host
    host.sh("ip route del default; ip -6 route del default")
    lab.ends[0].sh("ip addr add 198.51.100.9/32 dev lo; ip -6 addr add 2001:db8:9::9/128 dev lo nodad")
    host.config(GATEWAY)
    before = lab.state()
    lab.vmnet("up")
    assert eventually(lambda: ping(host, "198.51.100.9", 1) is not None and ping(host, "2001:db8:9::9", 1) is not None)
    assert lab.vmnet("check") == "ok\n" and lab.vmnet("up") == "up: nothing to do\n"
    lab.vmnet("down", "--force")
    same(before, lab.state())


def test_gateway_beside_the_admins(lab):
    """There is a default route already, through eth9, and it carries the admin: it is not replaced behind his back."""
    lab.host.config(GATEWAY)
    before = lab.state()
    done = lab.vmnet.tried("up")
    if done.returncode:
        refusal(done, "guestbr0", "gateway")
    else:
        assert "default via 10.0.1.254" in lab.host.run("ip route show default").stdout
        assert "default via fd00:1::254" in lab.host.run("ip -6 route show default").stdout
        lab.vmnet("down")
    same(before, lab.state())


def test_routes_of_others_stay(lab):
    """The kernel drops every route of a link with its last address: here that is ours, and the route is the admin's."""
    lab.host.config(PUBLIC + 'role = "router"\n')
    assert "203.0.113.0/24" in lab.host.run("ip route show dev up0").stdout
    before = lab.state()
    lab.vmnet("up")
    lab.vmnet("down")
    same(before, lab.state())


def test_checksums_are_computed_by_the_host(lab):
    """As `ethtool -K guestbr0 tx off`: a guest that looks at checksums sees good ones."""
    lab.host.config(ADDRESSES + "tx_checksum = false\n")
    before = lab.state()
    lab.vmnet("up")
    assert lab.vmnet("check") == "ok\n" and lab.vmnet("up") == "up: nothing to do\n"
    assert tx_checksum(lab.host, "guestbr0") is False
    lab.vmnet("down")
    same(before, lab.state())


def tx_checksum(node, ifname: str) -> bool:
    """ETHTOOL_GTXCSUM, as `ethtool -k` asks."""
    script = f"""
import array, fcntl, socket, struct
value = array.array("I", [0x16, 9])
request = struct.pack("16sP", b"{ifname}", value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
print(value[1])
"""
    return node.run(["/usr/bin/python3", "-IS", "-c", script]).stdout.strip() == "1"


def test_up_of_some(lab):
    """A name brings up that part and what it stands on; `down` of a name, that part."""
    lab.host.config('[bridges.br-x]\nports = ["eth1"]\n[bridges.br-y]\nports = ["eth2"]\n')
    before = lab.state()
    assert lab.vmnet("up", "br-x").splitlines() == ["up bridge br-x"]
    first = lab.state()
    assert exists(lab.host, "br-x") and not exists(lab.host, "br-y")
    assert lab.vmnet("up", "bridge:br-y").splitlines() == ["up bridge br-y"]
    lab.vmnet("down", "bridge:br-y")
    same(first, lab.state())
    assert lab.vmnet("up").splitlines() == ["up bridge br-y"]
    lab.vmnet("down")
    same(before, lab.state())


def test_nothing_is_declared(lab):
    before = lab.state()
    assert "nothing is declared" in lab.vmnet("up")
    lab.vmnet("down")
    same(before, lab.state())


def test_up_again_drops_no_packet(lab):
    lab.host.config(TWO_PORTS + '[bridges.br-x]\nports = ["eth3"]\naddresses = ["198.18.6.1/24"]\n')
    lab.vmnet("up")
    up = lab.state()
    with Pinging(lab.ends[0], "10.7.0.2") as pings, Pinging(lab.ends[1], "fd07::1") as pings6:
        for _ in range(2):
            assert lab.vmnet("up") == "up: nothing to do\n"
        assert commands(lab.vmnet("plan", "up")) == []
        lab.vmnet("up", "guestbr0")
        lab.vmnet("repair")
        lab.vmnet("check")
        lab.vmnet("status")
    assert pings.lost == pings6.lost == 0
    same(up, lab.state())


@pytest.mark.parametrize("how", ["deleted", "broken", "renamed", "other ports"])
def test_down_whatever_the_admin_did_meanwhile(lab, how):
    """`down` goes by the records."""
    lab.host.config(ADDRESSES)
    before = lab.state()
    lab.vmnet("up")
    if how == "deleted":
        lab.host.path("/etc/vmnet-hooks/vmnet.toml").unlink()
    elif how == "broken":
        lab.host.config("this is [not TOML")
    elif how == "renamed":
        lab.host.config(ADDRESSES.replace("guestbr0", "otherbr0"))
    else:
        lab.host.config(ADDRESSES.replace("eth1", "eth3").replace("10.7", "10.8"))
    lab.vmnet("down")
    same(before, lab.state())


def test_status(lab):
    """Every part is a row, once."""
    lab.host.config(ADDRESSES + "[bridges.br-x]\n")
    lab.vmnet("up")
    lab.vmnet("up")
    text = lab.vmnet("status")
    assert len([line for line in text.splitlines() if line.startswith("-") and "guestbr0" in line]) == 1, text
    assert len(json.loads(lab.vmnet("status", "--json"))) == 2
    assert "drift" not in text
    lab.host.run("ip addr del 10.7.0.254/24 dev guestbr0")
    text = lab.vmnet("status")
    assert [("drift" in line) for line in text.splitlines() if line.startswith("-") and "br-x" in line] == [False], text
    assert [("drift" in line) for line in text.splitlines() if line.startswith("-") and "guestbr0" in line] == [True], text


# --- edits --------------------------------------------------------------------------------------------------------------

BASE = TWO_PORTS + 'addresses = ["198.18.5.1/24"]\n'
EDITS = {
    "ageing": BASE + "ageing = 17\n",
    "group_fwd_mask": BASE + "group_fwd_mask = 0x4000\n",
    "address added": BASE.replace("5.1/24", '5.1/24", "198.18.6.1/24", "fd05::1/64'),
    "address changed": BASE.replace("5.1", "5.2"),
    "port added": BASE.replace('"eth2"', '"eth2", "eth3"'),
    "other bridge": BASE + '[bridges.br-x]\nports = ["eth3"]\n',
    "snooping": BASE + "mcast_snooping = false\n",
}


@pytest.mark.parametrize("edit", EDITS)
def test_edit(lab, edit):
    """Only the difference is changed: no link is made anew, no packet is lost; the end is what a fresh `up` makes of it."""
    lab.host.config(BASE)
    before = lab.state()
    lab.vmnet("up")
    index = lab.index("guestbr0")
    lab.host.config(EDITS[edit])
    lab.vmnet("check", status=1) if edit != "other bridge" else None
    with Pinging(lab.ends[0], "10.7.0.2") as pings:
        assert "ip link add" not in lab.vmnet("plan", "up").replace("ip link add name br-x", "")
        lab.vmnet("up")
    assert pings.lost == 0 and lab.index("guestbr0") == index
    assert lab.vmnet("check") == "ok\n" and lab.vmnet("up") == "up: nothing to do\n"
    edited = lab.state()
    lab.vmnet("down")
    same(before, lab.state())
    lab.vmnet("up")
    same(without_birth(edited), without_birth(lab.state()))


def test_edit_that_takes_something_away(lab):
    """A port leaves, an option goes back to its default, the MTU changes: the bridge stays, and the rest goes on."""
    lab.host.config(TWO_PORTS.replace('"eth2"', '"eth2", "eth3"') + 'ageing = 17\nmtu = 1400\naddresses = ["198.18.5.1/24"]\n')
    before = lab.state()
    lab.vmnet("up")
    index = lab.index("guestbr0")
    lab.host.config(TWO_PORTS + "mtu = 1300\n")
    with Pinging(lab.ends[0], "10.7.0.2") as pings:
        lab.vmnet("up")
    assert pings.lost == 0 and lab.index("guestbr0") == index
    assert ports(lab.host, "guestbr0") == ["eth1", "eth2"] and attribute(lab.host, "guestbr0", "mtu") == "1300"
    assert attribute(lab.host, "guestbr0", "bridge/ageing_time") == "30000"
    assert "198.18.5.1" not in lab.host.run("ip addr").stdout
    assert lab.vmnet("check") == "ok\n"
    lab.vmnet("down")
    same(before, lab.state())


def test_broken_edit_changes_nothing(lab):
    lab.host.config(BASE)
    lab.vmnet("up")
    up = lab.state()
    lab.host.config(BASE.replace('"eth2"', '"eth2", "nosuch0"'))
    with Pinging(lab.ends[0], "10.7.0.2") as pings:
        refusal(lab.vmnet.tried("up"), "guestbr0", "nosuch0")
    assert pings.lost == 0
    same(up, lab.state())


# --- guests ---------------------------------------------------------------------------------------------------------------

LAN = '\n[networks.lan]\nmode = "bridged"\nbridge = "guestbr0"\n'


def guest(lab: Host, last: int):
    nic = Interface(f"52:54:00:bb:00:{last:02x}", f"lan-tap{last}", "lan")
    return nic, lab.stack.enter_context(wired(lab.host, nic.tap, f"guest{last}", Nic(nic.mac, f"10.7.0.{last}")))


def test_guest_in_a_declared_bridge(lab):
    """`down` while it runs leaves what it needs; after its stop nothing is left."""
    lab.host.config(ADDRESSES + LAN)
    (nic, node), (other, _) = guest(lab, 10), guest(lab, 11)
    before = lab.state()
    lab.vmnet("up")
    up = lab.state()
    lab.start("dom", nic)
    assert eventually(lambda: ping(node, "10.7.0.1", 1) is not None)
    with Pinging(lab.ends[0], "10.7.0.10") as pings:
        assert lab.vmnet("up") == "up: nothing to do\n"
        lab.start("dom2", other)
        lab.stop("dom2", other)
    assert pings.lost == 0
    lab.stop("dom", nic)
    same(up, lab.state())
    lab.start("dom", nic)
    with Pinging(lab.ends[0], "10.7.0.10") as pings:
        lab.vmnet.tried("down")
    assert pings.lost == 0, "down cut a running guest off"
    assert eventually(lambda: ping(node, "10.7.0.1", 1) is not None)
    lab.stop("dom", nic)
    lab.vmnet.tried("down")
    same(before, lab.state())


def test_bridge_edited_under_a_guest(lab):
    lab.host.config(ADDRESSES + LAN)
    nic, _ = guest(lab, 10)
    before = lab.state()
    lab.vmnet("up")
    lab.start("dom", nic)
    index = lab.index("guestbr0")
    lab.host.config(ADDRESSES + "ageing = 60\n" + LAN)
    with Pinging(lab.ends[0], "10.7.0.10") as pings:
        lab.vmnet("up")
    assert pings.lost == 0 and lab.index("guestbr0") == index
    assert attribute(lab.host, "guestbr0", "bridge/ageing_time") == "6000"
    assert lab.vmnet("check") == "ok\n"
    lab.stop("dom", nic)
    lab.vmnet("down")
    same(before, lab.state())


def test_network_with_an_uplink(lab):
    """The bridge comes with the first guest and goes with the last."""
    lab.host.config(LAN + 'uplink = "eth1"\n')
    (one, first), (two, second) = guest(lab, 10), guest(lab, 11)
    before = lab.state()
    lab.start("dom1", one)
    assert ports(lab.host, "guestbr0") == ["eth1", one.tap]
    assert eventually(lambda: ping(first, "10.7.0.1", 1) is not None)
    lab.start("dom2", two)
    with Pinging(second, "10.7.0.1") as pings:
        lab.stop("dom1", one)
    assert pings.lost == 0
    assert lab.vmnet("check") == "ok\n"
    lab.stop("dom2", two)
    same(before, lab.state())


def test_network_with_an_uplink_in_the_admins_bridge(lab):
    """Only what we made goes: br0 and its port are somebody else's."""
    lab.host.config('[networks.lan]\nmode = "bridged"\nbridge = "br0"\nuplink = "lan0"\n')
    nic, _ = guest(lab, 10)
    before = lab.state()
    lab.start("dom", nic)
    assert ports(lab.host, "br0") == [nic.tap, "lan0"]
    lab.stop("dom", nic)
    same(before, lab.state())


def test_stop_of_a_guest_whose_bridge_was_never_up(lab):
    """A guest that starts before `up`: it is told what to do, or the bridge comes for it; and it leaves nothing behind."""
    lab.host.config(ADDRESSES + LAN)
    nic, node = guest(lab, 10)
    before = lab.state()
    try:
        call(lab.host, "dom", "start", nic)
    except AssertionError as error:
        assert "guestbr0" in str(error) and "vmnet-hook up" in str(error), error
    else:
        assert eventually(lambda: ping(node, "10.7.0.1", 1) is not None)
    lab.stop("dom", nic)
    same(before, lab.state())


# --- at once, killed, damaged -----------------------------------------------------------------------------------------------


def test_two_at_once(lab):
    lab.host.config(ADDRESSES + '[bridges.br-x]\nports = ["eth2", "eth3"]\nstp = true\n')
    before = lab.state()
    running = [Command(lab.host, "up") for _ in range(3)]
    outputs = [command.wait(0) for command in running]
    assert sum("up bridge guestbr0" in output for output in outputs) == 1, outputs
    assert sum("up: nothing to do" in output for output in outputs) == 2, outputs
    assert ports(lab.host, "guestbr0") == ["eth1"] and ports(lab.host, "br-x") == ["eth2", "eth3"]
    assert lab.vmnet("check") == "ok\n"
    assert len(json.loads(lab.vmnet("status", "--json"))) == 2
    running = [Command(lab.host, verb) for verb in ("down", "up", "down")]
    assert all(command.wait(None) is not None and command.process.returncode in (0, 1, 2) for command in running)
    assert_not_up_at_most(lab.vmnet.tried("check").output)
    lab.vmnet.tried("down")
    same(before, lab.state())


REFUSED = {
    "missing NIC": ('[bridges.guestbr0]\nports = ["eth1", "eth7"]\n', ["guestbr0", "eth7"]),
    "NIC in a foreign bridge": ('[bridges.guestbr0]\nports = ["eth1", "lan0"]\n', ["guestbr0", "lan0", "br0"]),
    "foreign bridge of that name": ('[bridges.br0]\nports = ["eth1"]\n', ["br0"]),
    "foreign NIC of that name": ("[bridges.eth3]\n", ["eth3"]),
    "port with addresses": ('[bridges.guestbr0]\nports = ["eth1", "eth9"]\n', ["eth9", "adopt", "10.0.1.1"]),
    "MTU of a port": (TWO_PORTS + "mtu = 9000\n", ["guestbr0", "mtu", "9000", "eth1", "1500"]),
    "VLAN's parent missing": ('[vlans."eth7.100"]\nparent = "eth7"\nid = 100\n', ["eth7.100", "eth7"]),
    "VLAN without a VID": ('[vlans."eth1.100"]\nparent = "eth1"\n', ["eth1.100", "id"]),
    "VLAN without a parent": ('[vlans."eth1.100"]\nid = 100\n', ["eth1.100", "parent"]),
    "VID out of range": ('[vlans."eth1.100"]\nparent = "eth1"\nid = 4095\n', ["eth1.100", "id", "4095"]),
    "uplink is a port": (TWO_PORTS + PUBLIC.replace("up0", "eth1"), ["uplink", "eth1", "guestbr0"]),
    "port of two bridges": (TWO_PORTS + '[bridges.br-x]\nports = ["eth2"]\n', ["eth2", "guestbr0", "br-x"]),
    "port named twice": ('[bridges.guestbr0]\nports = ["eth1", "eth1"]\n', ["guestbr0", "ports"]),
    "circle": ('[bridges.br-x]\nports = ["br-y"]\n[bridges.br-y]\nports = ["br-x"]\n', ["br-x", "br-y"]),
    "itself": ('[bridges.br-x]\nports = ["br-x"]\n', ["br-x"]),
    "bridge in a bridge": ('[bridges.br-x]\n[bridges.guestbr0]\nports = ["br-x"]\n', ["br-x", "guestbr0"]),
    "loopback": ('[bridges.guestbr0]\nports = ["lo"]\n', ["guestbr0", "lo"]),
    "name too long": ("[bridges.a-name-of-16-abc]\n", ["a-name-of-16-abc", "15"]),
    "unknown option": ("[bridges.guestbr0]\nport = []\n", ["guestbr0", "port", "ports"]),
    "unknown section": ("[bridge.guestbr0]\n", ["bridge", "bridges"]),
    "wrong type": ('[bridges.guestbr0]\nports = "eth1"\n', ["guestbr0", "ports"]),
    "address of nobody": ('[bridges.guestbr0]\naddresses = ["10.7.0.254"]\n', ["guestbr0", "addresses"]),
    "gateway elsewhere": ('[bridges.guestbr0]\naddresses = ["10.7.0.2/24"]\ngateway = "10.8.0.1"\n', ["guestbr0", "gateway"]),
    "adopt is no port": ('[bridges.guestbr0]\nports = ["eth1"]\nadopt = "eth9"\n', ["guestbr0", "adopt", "eth9"]),
    "hw_port is no port": (TWO_PORTS + 'hw_port = "eth9"\n', ["guestbr0", "hw_port", "eth9"]),
    "NAT without its interface": ('[nat.out]\nsubnet = "10.7.0.0/24"\nout = "eth7"\nmasquerade = true\n', ["out", "eth7"]),
}


@pytest.fixture(scope="module")
def shared():
    """One host for all that must not change it."""
    with Host() as running:
        yield running


@pytest.mark.parametrize("case", REFUSED)
def test_refused(shared, case):
    """A clear line, and nothing touched."""
    config, words = REFUSED[case]
    shared.host.config(config)
    before = shared.state()
    done = shared.vmnet.tried("up")
    refusal(done, *words)
    same(before, shared.state())
    if done.returncode == 2:
        assert "/etc/vmnet-hooks/vmnet.toml" in done.output, done


@pytest.mark.parametrize("verb", ["up", "down"])
def test_unknown_name(shared, verb):
    shared.host.config(TWO_PORTS)
    before = shared.state()
    refusal(shared.vmnet.tried(verb, "guestbr1"), "guestbr1")
    refusal(shared.vmnet.tried(verb, "vlan:guestbr0"), "vlan:guestbr0")
    same(before, shared.state())


def test_one_that_fails(lab):
    """By name it is one transaction; without names, a part that can't be brought up fails alone."""
    lab.host.config(ADDRESSES + '[bridges.br-x]\nports = ["eth2", "lan0"]\n')
    before = lab.state()
    refusal(lab.vmnet.tried("up", "guestbr0", "br-x"), "lan0")
    same(before, lab.state())
    done = lab.vmnet.tried("up")
    assert done.returncode == 2 and done.output.startswith("up bridge guestbr0\nvmnet-hook: ") and "lan0" in done.output
    up = lab.state()
    refusal(lab.vmnet.tried("up"), "lan0")
    same(up, lab.state())


# The longest forward_delay that the kernel takes: for a minute, no port forwards and the bridge has no carrier.
KILLED = """
[bridges.guestbr0]
ports = ["eth1", "eth2"]
stp = true
forward_delay = 30
ageing = 60
addresses = ["10.7.0.254/24", "fd07::fe/64"]
[bridges.br-x]
[nat.out]
subnet = "10.7.0.0/24"
out = "eth9"
masquerade = true
"""
MOST = 120  # no plan has this many steps


def assert_not_up_at_most(output: str) -> None:
    """Nothing is wrong but that all of it, or a part, is not up."""
    assert output == "ok\n" or all("is declared, and not up" in line for line in output.splitlines()[1:]), output


class Killing:
    """A host, and its states without and with what is declared."""

    def __init__(self, lab: Host):
        lab.host.config(KILLED)
        self.lab = lab
        self.before = lab.state()
        self.run("up")
        self.up = without_birth(lab.state())
        self.run("down")
        same(self.before, lab.state())

    def run(self, *argv: str, kill: int = 0):
        result = self.lab.vmnet.tried(*argv, kill=kill)
        assert result.returncode == 0 or (kill and result.killed), f"{argv}: {result}"
        return result

    def repair(self) -> None:
        """What is not up is not for `repair` to bring up."""
        assert_not_up_at_most(self.lab.vmnet.tried("repair").output.partition("DIFFERENCE")[2])

    def check(self) -> None:
        assert_not_up_at_most(self.lab.vmnet.tried("check").output)


def test_up_killed(lab):
    """At every change: `repair` puts all back or the next `up` finishes it, in turns."""
    scene = Killing(lab)

    def attempt(point: int) -> bool:
        killed = scene.run("up", kill=point).killed
        scene.repair() if point % 2 else scene.run("up")
        scene.check()
        state = lab.state()
        if point % 2 == 0 or not killed or without_birth(state) == scene.up:
            same(scene.up, without_birth(state))
            scene.run("down")
        same(scene.before, lab.state())
        return killed

    assert points(attempt, MOST) > 5


def test_down_killed(lab):
    """At every change: the next `down`, or `repair`, or `up`, finds its way."""
    scene = Killing(lab)

    def attempt(point: int) -> bool:
        scene.run("up")
        killed = scene.run("down", kill=point).killed
        if point % 3 == 0:
            scene.repair()
            scene.check()
        elif point % 3 == 1:
            scene.run("up")
            scene.check()
            same(scene.up, without_birth(lab.state()))
        lab.vmnet.tried("down")
        same(scene.before, lab.state())
        scene.check()
        return killed

    assert points(attempt, MOST) > 5


DAMAGE = {
    "bridge deleted": ("ip link del guestbr0", ["guestbr0"]),
    "port removed": ("ip link set eth1 nomaster", ["eth1"]),
    "port elsewhere": ("ip link set eth1 master br0", ["eth1"]),
    "port down": ("ip link set eth2 down", ["eth2"]),
    "bridge down": ("ip link set guestbr0 down", ["guestbr0"]),
    "address deleted": ("ip addr del 10.7.0.254/24 dev guestbr0", ["10.7.0.254"]),
    "addresses flushed": ("ip addr flush dev guestbr0", ["10.7.0.254", "fd07::fe"]),
    "STP": ("ip link set guestbr0 type bridge stp_state 0 forward_delay 200", ["guestbr0", "stp_state"]),
    "ageing": ("ip link set guestbr0 type bridge ageing_time 100", ["guestbr0", "ageing"]),
    "MTU": ("ip link set guestbr0 mtu 1300", ["guestbr0", "mtu"]),
    "MAC": ("ip link set guestbr0 address 02:00:00:00:00:99", ["guestbr0", "address"]),
    "IPv6 on a port": ("echo 0 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6", ["eth1", "disable_ipv6"]),
    "nft": ("nft flush ruleset", ["vmnet"]),
    "nft table": ("nft delete table inet vmnet-nat", ["vmnet-nat"]),
    "forwarding": ("echo 0 > /proc/sys/net/ipv4/conf/eth9/forwarding", ["eth9", "forwarding"]),
}


@pytest.fixture(scope="module")
def damaged():
    """A host that is up, and is damaged again and again; at last `down` is still the inverse of `up`."""
    with Host() as lab:
        lab.host.sh("nft flush ruleset")  # what others had there would be theirs to restore
        lab.host.config(KILLED)
        before = lab.state()
        lab.vmnet("up")
        lab.whole = without_birth(lab.state())
        yield lab
        lab.vmnet("down")
        same(before, lab.state())


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damaged, damage):
    """Somebody else undoes a part of it: `check` names it, `repair` mends it."""
    script, words = DAMAGE[damage]
    damaged.host.sh(script)
    text = damaged.vmnet("check", status=1)
    damaged.vmnet("repair")
    for word in words:
        assert word in text, f"check does not name {word}:\n{text}"
    assert damaged.vmnet("check") == "ok\n"
    same(damaged.whole, without_birth(damaged.state()))
    assert damaged.vmnet("up") == "up: nothing to do\n"


@pytest.mark.parametrize("damage", ["bridge deleted", "port removed", "addresses flushed", "nft", "NIC gone"])
def test_down_after_damage(lab, damage):
    """Clean-up does all it can, and what somebody else has removed is no error."""
    lab.host.sh("nft flush ruleset")
    lab.host.config(KILLED)
    before = lab.state()
    lab.vmnet("up")
    lab.host.sh(DAMAGE.get(damage, ("ip link del eth2",))[0])
    lab.vmnet("down")
    if damage == "NIC gone":
        assert not exists(lab.host, "guestbr0") and lab.vmnet("check") == "ok\n", "all of it is down, as asked"
    else:
        same(before, lab.state())

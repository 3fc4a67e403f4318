"""`vmnet-hook import`: interfaces(5) as ifupdown reads it, and the TOML that says the same."""

import inspect
import os
import textwrap
import tomllib

import pytest
from click.testing import CliRunner

from vmnet_hooks.cli import main
from vmnet_hooks.declared import configuration
from vmnet_hooks.errors import InputError
from vmnet_hooks.importing import interfaces, live, option_values, stanzas
from vmnet_hooks.importing.draft import settle, toml
from vmnet_hooks.kernel import import_facts
from vmnet_hooks.model.topology import LinkDetails

RING = """\
auto lo
iface lo inet loopback

auto eth1.100
iface eth1.100 inet manual

auto guestbr0
iface guestbr0 inet static
    address 10.5.5.254
    netmask 255.255.255.0
    bridge_ports eth1.100 eth2.100
    bridge_stp on
    bridge_fd 4
    bridge_hello 1
    bridge_maxage 6
    bridge_maxwait 0
    up echo hello

auto xenbr0
iface xenbr0 inet static
    address 192.168.122.11/24
    gateway 192.168.122.1
    dns-nameservers 192.168.122.1
    bridge_ports eth0
    bridge_stp off
    bridge_fd 0
"""
RING_TOML = """\
# FILE:1-2: `auto lo` and `iface lo inet loopback` are not carried over: the loopback interface needs no declaration

[vlans."eth1.100"]
parent = "eth1"
id = 100

[vlans."eth2.100"]
parent = "eth2"
id = 100

[bridges.guestbr0]
ports = ["eth1.100", "eth2.100"]
stp = true
forward_delay = 4
hello_time = 1
max_age = 6
addresses = ["10.5.5.254/24"]
# FILE:16: `bridge_maxwait 0` is not carried over: nothing waits for ports; see `vmnet-hook up --wait`
# FILE:17: `up echo hello` is not carried over: it ends with the stanza; let a unit that comes after vmnet-networks.service run it

[bridges.xenbr0]
ports = ["eth0"]
stp = false
forward_delay = 0
addresses = ["192.168.122.11/24"]
gateway = "192.168.122.1"
# FILE:23: `dns-nameservers 192.168.122.1` is not carried over: name servers are for resolvconf, or /etc/resolv.conf
"""
ROUTED = """\
auto bond0
iface bond0 inet manual
    bond-slaves eth0 eth1
    bond-mode 802.3ad
    bond-miimon 100
    bond-lacp-rate fast
    bond-xmit-hash-policy layer3+4
    mtu 9000

auto bond0.100
iface bond0.100 inet manual
    ip-routing-table 100
    ip-routes 192.0.2.0/24
    ip-gateway 192.0.2.1
    ip-forwarding 1
    ip-proxy-arp 1
    arp-ip 192.0.2.254
iface bond0.100 inet6 manual
    ip-routing-table 100
    ip-routes 2001:db8:100::/64
    ip-gateway 2001:db8:100::1
    ip-forwarding 1
    ip-proxy-ndp 1

auto eth9
iface eth9 inet static
    address 198.51.100.1
    netmask 255.255.255.0
    ip-routing-table 300
    ip-routes 198.51.100.0/24
    ip-proxy-arp 1
"""
ROUTED_TOML = """\
[bonds.bond0]
ports = ["eth0", "eth1"]
mode = "802.3ad"
miimon = 100
lacp_rate = "fast"
xmit_hash_policy = "layer3+4"
mtu = 9000

[vlans."bond0.100"]
parent = "bond0"
id = 100

[networks."bond0.100"]
mode = "routed"
uplink = "bond0.100"
table = 100
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }
ipv6 = { subnet = "2001:db8:100::/64", gateway = "2001:db8:100::1" }

[networks.eth9]
mode = "routed"
uplink = "eth9"
table = 300
role = "router+host"
ipv4 = { subnet = "198.51.100.0/24", gateway = "198.51.100.1" }
"""


def run(argv):
    """The command, with stderr of its own: before click 8.2 that must be asked for."""
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**separate).invoke(main, argv)


@pytest.fixture
def imported(tmp_path):
    def imported(text, *, encoding="utf-8"):
        path = tmp_path / "interfaces"
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode(encoding))
        done = run(["import", "--interfaces", str(path)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.stderr
        if done.exit_code == 0:
            (tmp_path / "vmnet.toml").write_text(done.stdout)
            configuration.load(str(tmp_path))
        return done.exit_code, done.stdout.replace(str(path), "FILE"), done.stderr.replace(str(path), "FILE")

    return imported


def body(output):
    """Without the head."""
    return output.partition("\n\n")[2]


def declared(output, section):
    return tomllib.loads(output).get(section, {})


def comments(output):
    return [line for line in body(output).splitlines() if line.startswith("#")]


# --- goldens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", [(RING, RING_TOML), (ROUTED, ROUTED_TOML)], ids=["ring", "routed"])
def test_golden(imported, text, expected):
    status, output, errors = imported(text)
    assert (status, errors) == (0, "")
    assert body(output) == expected


@pytest.mark.parametrize(
    "line",
    [n for n, line in enumerate(RING.splitlines()) if line] + [-n for n, line in enumerate(ROUTED.splitlines(), 1) if line],
)
def test_no_line_is_dropped_silently(imported, line):
    """Every line counts: without it, what comes out is something else, or an error."""
    text = (RING if line >= 0 else ROUTED).splitlines()
    number = line if line >= 0 else -line - 1
    # What goes without saying where the rest is as it is.
    implied = {"auto eth1.100", "iface eth1.100 inet manual", "ip-forwarding 1", "ip-proxy-ndp 1"}
    implied |= {"netmask 255.255.255.0"} if line < 0 else set()
    # Without its head, a stanza's options are those of the one above: for ifupdown2 one stanza can have both families.
    implied |= {"ip-proxy-arp 1"} if line == -16 else {"iface bond0.100 inet6 manual"} if line < 0 else set()
    without = "\n".join([*text[:number], "", *text[number + 1 :]])
    assert (imported("\n".join(text)) == imported(without)) == (text[number].strip() in implied), text[number]


def test_bonds(imported):
    _, output, _ = imported("""\
        iface bond0 inet manual
            bond-slaves none
            bond-mode 1
            bond-updelay 200
            bond_downdelay 200
            bond-arp-interval 50
        iface eth0 inet manual
            bond-master bond0
            bond-primary eth0 eth1
            bond-mode active-backup
            bond-mode 1
        iface eth1 inet manual
            bond-master bond0
        iface bond1 inet manual
            bond-slaves eth2
        iface bond2 inet manual
            bond-slaves eth3 eth4
            bond-mode 4
            bond-lacp-rate 1
            bond-xmit-hash-policy 2
        iface eth9 inet manual
            bond-master bond9
        """)
    bonds = declared(output, "bonds")
    assert bonds["bond0"] == {"ports": ["eth0", "eth1"], "mode": "active-backup", "miimon": 0, "primary": "eth0"}
    # The kernel's defaults, not ours.
    assert bonds["bond1"] == {"ports": ["eth2"], "mode": "balance-rr", "miimon": 0}
    assert bonds["bond2"] == {"ports": ["eth3", "eth4"], "mode": "802.3ad", "lacp_rate": "fast", "xmit_hash_policy": "layer2+3"}
    left = "\n".join(comments(output))
    for word in ("updelay 200", "downdelay 200", "arp-interval 50", "bond-master bond9", "`bond-mode active-backup`"):
        assert word in left, word


@pytest.mark.parametrize(
    "stanza, name, options",
    [
        ("iface eth0.7 inet manual", "eth0.7", {"parent": "eth0", "id": 7}),
        ("iface eth0.0100 inet manual", "eth0.0100", {"parent": "eth0", "id": 100}),
        ("iface bond0.2 inet manual\n vlan-raw-device bond0", "bond0.2", {"parent": "bond0", "id": 2}),
        ("iface vlan100 inet manual\n vlan-raw-device eth0", "vlan100", {"parent": "eth0", "id": 100}),
        ("iface vlan0005 inet manual\n vlan_raw_device eth0", "vlan0005", {"parent": "eth0", "id": 5}),
        ("iface lan inet manual\n vlan-raw-device eth0\n vlan-id 9", "lan", {"parent": "eth0", "id": 9}),
        (
            "iface lan inet manual\n vlan-raw-device eth0\n vlan-id 9\n vlan-protocol 802.1ad",
            "lan",
            {"parent": "eth0", "id": 9, "protocol": "802.1ad"},
        ),
        (
            "iface eth0.7 inet static\n address 10.0.0.1/24\n mtu 1496\n hwaddress ether 02:00:00:00:00:0A",
            "eth0.7",
            {"parent": "eth0", "id": 7, "mtu": 1496, "mac": "02:00:00:00:00:0a", "addresses": ["10.0.0.1/24"]},
        ),
    ],
)
def test_vlans(imported, stanza, name, options):
    _, output, _ = imported(stanza)
    assert declared(output, "vlans") == {name: options}
    assert not [line for line in comments(output) if "not carried over" in line]


@pytest.mark.parametrize(
    "stanza",
    [
        "iface eth0.10.20 inet manual",
        "iface eth0.4095 inet manual",
        "iface eth0.x inet manual",
        "iface vlan100 inet manual",
        "iface lan inet manual\n vlan-raw-device eth0",
    ],
)
def test_what_is_no_vlan_is_a_comment(imported, stanza):
    _, output, _ = imported(stanza)
    assert tomllib.loads(output) == {}
    left = "\n".join(line for line in comments(output) if "not carried over" in line)
    assert all(f"`{line.strip()}`" in left for line in stanza.splitlines())


def test_bridges(imported):
    _, output, _ = imported("""\
        auto br0 br1 br2 br3 br4
        iface br0 inet manual
            bridge-ports eth0 eth1
            bridge-stp yes
            bridge-fd 15.0
            bridge_bridgeprio 4096
            bridge_ageing 12.5
            bridge_hw eth1
            bridge_pathcost eth0 100
            bridge_waitport 5 eth0
            mtu 9000
        iface br1 inet manual
            bridge_ports none
            bridge_hw 02:00:00:00:00:01
            bridge_ageing 10
        iface br2 inet manual
            bridge_ports all regex vif.* noregex eth7
        iface br3 inet manual
            bridge-ports eth3
            bridge-vlan-aware yes
            bridge-vids 10 20-30,40
            bridge-pvid 1
        iface br4 inet manual
            bridge_ports eth0
            bridge_hw eth9
            bridge_fd 7
        """)
    bridges = declared(output, "bridges")
    assert bridges["br0"] == {
        "ports": ["eth0", "eth1"],
        "stp": True,
        "forward_delay": 15,
        "priority": 4096,
        "hw_port": "eth1",
        "mtu": 9000,
    }
    assert bridges["br1"] == {"ports": [], "ageing": 10, "mac": "02:00:00:00:00:01"}
    assert bridges["br2"] == {"ports": ["eth7"]}
    assert bridges["br3"] == {"ports": ["eth3"], "vlan_filtering": True, "vlans": [10, "20-30", 40], "pvid": 1}
    # eth0 is a port of br0 already; then hw_port has no port either.
    assert bridges["br4"] == {}
    left = "\n".join(comments(output))
    for words_ in (
        "12.5",
        "pathcost",
        "waitport",
        "vif.*",
        "`bridge_hw eth9`",
        "`bridge_fd 7`",
        "of bridges.br0",
    ):
        assert words_ in left, words_


def test_addresses(imported):
    _, output, _ = imported("""\
        auto br0
        iface br0 inet static
            bridge_ports none
            address 10.1.2.3
            gateway 10.0.0.1
            broadcast 10.255.255.255
            network 10.0.0.0
            metric 5
        iface br0 inet static
            address 192.168.7.1/25
            netmask 255.255.255.0
            broadcast 192.168.7.127
        iface br0 inet6 static
            address 2001:db8::5
            netmask 64
            gateway fe80::1
            dad-attempts 0
            accept_ra 0
            privext 2
        iface br0:1 inet static
            address 172.16.0.1
        iface br0 inet static
            address 10.8.0.1
            pointopoint 10.8.0.2
        iface br0 inet dhcp
        iface br0 inet6 manual
        """)
    assert declared(output, "bridges")["br0"] == {
        "ports": [],
        "addresses": ["10.1.2.3/8", "192.168.7.1/24", "2001:db8::5/64", "172.16.0.1/16", "10.8.0.1 peer 10.8.0.2/32"],
        "gateway": "10.0.0.1",
        "metric": 5,
        "routes": [{"to": "default", "via": "fe80::1"}],
    }
    left = [line.split("`")[1] for line in comments(output) if "not carried over" in line]
    assert left == [
        "broadcast 192.168.7.127",
        "privext 2",
        "iface br0:1 inet static",
        "iface br0 inet dhcp",
        "iface br0 inet6 manual",
    ]


@pytest.mark.parametrize(
    "lines, why",
    [
        ("address 10.0.0.1/33", "not an address"),
        ("address hello", "not an address"),
        ("address 2001:db8::1/64", "not an address of inet"),
        ("address 10.0.0.1\n netmask rubbish", "not an address"),
        ("address 10.0.0.1/24\n gateway 10.0.0.1", "is the link's own address"),
        ("address 10.0.0.1/24\n pointopoint rubbish", "it is not an address"),
        ("bridge_stp maybe", "neither on nor off"),
        ("bridge-vlan-aware on", "write yes or no"),
        ("bridge_fd 2.5 # short", "only whole seconds"),
        ("mtu 1000000", "whole number from"),
        ("mtu 1500\n mtu 9000", "given already"),
        ("hwaddress random", "always the same"),
        ("hwaddress 01:00:00:00:00:00", "multicast"),
    ],
)
def test_values_that_do_not_fit(imported, lines, why):
    status, output, _ = imported(f"auto br0\niface br0 inet static\n bridge_ports none\n {lines}\n")
    assert status == 0 and "br0" in declared(output, "bridges")
    assert why in "\n".join(comments(output))


def test_nics_stay_with_ifupdown(imported):
    _, output, _ = imported("""\
        auto eth0 eth1 br0
        iface eth0 inet manual
        iface eth1 inet static
            address 10.0.0.2/24
            gateway 10.0.0.1
        iface br0 inet manual
            bridge_ports eth0
        """)
    assert tomllib.loads(output) == {"bridges": {"br0": {"ports": ["eth0"]}}}
    # The port's own stanza says nothing more.
    assert [line.split("`")[1] for line in comments(output)] == [
        "auto eth0 eth1 br0",
        "iface eth1 inet static",
    ]
    assert "# FILE:3-5: `iface eth1 inet static`, `address 10.0.0.2/24` and `gateway 10.0.0.1` are not carried over" in output
    assert "[bridges" not in "".join(comments(output)), "the file has a bridge already"


def test_an_interface_alone(imported, tmp_path):
    """One comment for its stanza, and the bridge that guests would need, which is valid without its #."""
    _, output, _ = imported("""\
        auto eth0
        iface eth0 inet static
            address 192.0.2.5
            netmask 255.255.255.0
            gateway 192.0.2.1
            dns-nameservers 192.0.2.1
            mtu 1500
            up ip route add 10.0.0.0/8 via 192.0.2.254
        """)
    assert tomllib.loads(output) == {}
    assert len([line for line in comments(output) if "not carried over" in line]) == 1
    assert "FILE:1-8: `auto eth0` and 7 more are not carried over: eth0 is not a link that vmnet-hooks makes" in output
    proposed = "\n".join(line.removeprefix("# ") for line in comments(output)[-3:])
    assert tomllib.loads(proposed) == {"bridges": {"br0": {"ports": ["eth0"], "adopt": "eth0"}}}
    (tmp_path / "vmnet.toml").write_text(
        output.replace("# [bridges", "[bridges").replace("# ports", "ports").replace("# adopt", "adopt")
    )
    assert configuration.load(str(tmp_path)).links["br0"].adopts == "eth0"


def test_a_number_sign_behind_a_value_is_a_part_of_it(imported):
    """ifup has no comments there. What it makes of the value is carried over."""
    _, output, _ = imported("""\
        auto br0 br1
        iface br0 inet manual
            bridge_ports eth0 eth1  # both
            bridge_stp on  # two uplinks
            bridge_bridgeprio 4096 # the root
        iface br1 inet manual
            bridge_ports none
            bridge_vlan_aware yes # trunk
        """)
    bridges = declared(output, "bridges")
    assert bridges["br0"] == {"ports": ["eth0", "eth1"], "stp": True, "priority": 4096}
    assert bridges["br1"] == {"ports": []}
    assert "# ifup makes stp = true of `on  # two uplinks`: a # there begins no comment" in output
    assert "`bridge_vlan_aware yes # trunk` is not carried over" in output


STATIC = """\
auto br0
iface br0 inet static
    bridge_ports eth0
    address 192.0.2.2/24
    gateway 192.0.2.1
"""


@pytest.mark.parametrize(
    "command, route",
    [
        ("ip route add 10.0.0.0/8 via 192.0.2.254", {"to": "10.0.0.0/8", "via": "192.0.2.254"}),
        ("ip -4 route add 10.0.0.0/8 via 192.0.2.254 dev $IFACE || true", {"to": "10.0.0.0/8", "via": "192.0.2.254"}),
        ("/sbin/ip ro replace 10.1.2.3 dev br0 scope link", {"to": "10.1.2.3"}),
        ("ip r add default via 192.0.2.9 metric 50 table 7", {"to": "default", "via": "192.0.2.9", "metric": 50, "table": 7}),
        ("ip route add 10.0.0.0/8 via 198.51.100.1 onlink mtu 1400", {"to": "10.0.0.0/8", "via": "198.51.100.1", "onlink": True, "mtu": 1400}),  # noqa: E501
        ("ip -6 route add 2001:db8::/32 via fe80::1 dev br0", {"to": "2001:db8::/32", "via": "fe80::1"}),
        ("ip route add 10.0.0.0/8 dev br0 src 192.0.2.2 table main", {"to": "10.0.0.0/8", "src": "192.0.2.2"}),
        ("route add -net 10.0.0.0 netmask 255.0.0.0 gw 192.0.2.254", {"to": "10.0.0.0/8", "via": "192.0.2.254"}),
        ("route add -host 10.1.1.1 gw 192.0.2.254 dev br0", {"to": "10.1.1.1", "via": "192.0.2.254"}),
        ("route add -net 10.0.0.0/8 br0", {"to": "10.0.0.0/8"}),
    ],
)  # fmt: skip
def test_routes(imported, command, route):
    """What a command adds is declared; what another takes away is implied."""
    back = command.replace(" add ", " del ").replace(" replace ", " del ").partition(" via ")[0]
    _, output, _ = imported(
        STATIC + f"    up {command}\n    down {back if 'route del' in back and '-net' not in back else 'true'}\n"
    )
    assert declared(output, "bridges")["br0"]["routes"] == [route]
    assert not [line for line in comments(output) if "route" in line]


@pytest.mark.parametrize(
    "command, why",
    [
        ("up ip route add 10.0.0.0/8 via 198.51.100.1", "gateway 198.51.100.1 is in no subnet of br0; it ends with the stanza"),
        ("up ip route add 10.0.0.0/8 dev eth7", "eth7 is not a link that vmnet-hooks makes; it ends with the stanza"),
        ("up ip route add 10.0.0.1/8 dev br0", "is not a subnet"),
        ("up ip route add 10.0.0.0/8 dev br0 realm 3", "`routes` has no realm"),
        ("up ip route add 10.0.0.0/8 dev br0 table mine", "table mine is not a number; write the number"),
        ("up ip route add $NET dev br0", "it ends with the stanza; let a unit"),
        ("up ip route add 10.0.0.0/8 dev br0; true", "it ends with the stanza; let a unit"),
        ("down ip route del 10.0.0.0/8 dev br0", "it ends with the stanza; let a unit"),
        ("post-up iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "[nat] needs the guests' subnet"),
        ("post-up iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE", "[nat] needs the interface to the outside"),
        ("post-up iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -o eth0 -p tcp -j MASQUERADE", "[nat] has no -p"),
        ("post-up iptables -t nat -A POSTROUTING -s 10.9.0.0/24 ! -d 10.0.0.0/8 -o eth0 -j MASQUERADE", "no exception for 10.0.0.0/8"),  # noqa: E501
        ("post-up iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -o eth0 -j SNAT --to rubbish", "is not an IP address"),
        ("post-up iptables -A FORWARD -i br0 -j ACCEPT", "it ends with the stanza; let a unit"),
    ],
)  # fmt: skip
def test_commands_that_have_no_key(imported, command, why):
    _, output, _ = imported(STATIC + f"    {command}\n")
    assert tomllib.loads(output) == {
        "bridges": {"br0": {"ports": ["eth0"], "addresses": ["192.0.2.2/24"], "gateway": "192.0.2.1"}}
    }
    assert why in "\n".join(comments(output))


def test_masquerading(imported):
    """As in Proxmox's documentation, and Debian's. What belongs to it is implied."""
    _, output, _ = imported("""\
        auto vmbr1 eth0
        iface vmbr1 inet static
            address 10.10.10.1/24
            bridge-ports none
            post-up   echo 1 > /proc/sys/net/ipv4/ip_forward
            post-up   iptables -t nat -A POSTROUTING -s '10.10.10.0/24' -o eth0 -j MASQUERADE
            post-down iptables -t nat -D POSTROUTING -s '10.10.10.0/24' -o eth0 -j MASQUERADE
            post-up iptables -t nat -A POSTROUTING -s 10.10.10.7/24 ! -d 10.10.10.0/24 -o eth1 -m comment --comment "out" -j SNAT --to-source 192.0.2.7
        iface eth0 inet static
            address 192.0.2.7/24
            gateway 192.0.2.1
            up /sbin/ip6tables -w -t nat -I POSTROUTING 1 --source 2001:db8::/64 --out-interface eth0 --jump MASQUERADE
        """)  # noqa: E501
    assert declared(output, "nat") == {
        "vmbr1": {"subnet": "10.10.10.0/24", "out": "eth0", "masquerade": True},
        "vmbr1-2": {"subnet": "10.10.10.0/24", "out": "eth1", "snat": "192.0.2.7"},
        "eth0": {"subnet": "2001:db8::/64", "out": "eth0", "masquerade": True},
    }
    left = comments(output)
    assert not [line for line in left if "POSTROUTING" in line or "ip_forward" in line]
    assert "# in place of FILE:12: remove that line, and what takes it back" in left


def test_gateways_outside_of_the_subnet(imported):
    """For ifup every gateway is on the link."""
    _, output, _ = imported("""\
        auto br0 br1
        iface br0 inet static
            bridge_ports eth0
            address 198.51.100.250/32
            gateway 198.51.100.193
            metric 7
        iface br0 inet6 static
            address 2001:db8:1::2/128
            gateway fe80::1
        iface br1 inet static
            bridge_ports eth1
            address 192.0.2.9/29
            gateway 203.0.113.1
            metric 8
        """)
    assert declared(output, "bridges") == {
        "br0": {
            "ports": ["eth0"],
            "addresses": ["198.51.100.250/32", "2001:db8:1::2/128"],
            "gateway": "198.51.100.193",
            "metric": 7,
            "routes": [{"to": "default", "via": "fe80::1"}],
        },
        "br1": {
            "ports": ["eth1"],
            "addresses": ["192.0.2.9/29"],
            "gateway": "203.0.113.1",
            "metric": 8,
            "routes": [{"to": "203.0.113.1"}],
        },
    }


def test_ifupdown2(imported):
    """Stanzas without a family, both families in one, several addresses."""
    _, output, _ = imported("""\
        auto vmbr0
        iface vmbr0
            address 192.0.2.10/24
            address 198.51.100.10/28
            address 2001:db8::10/64
            gateway 192.0.2.1
            gateway fe80::1
            bridge-ports eno1
            bridge-stp off
            bridge-vlan-aware yes
            bridge-vids 2-4094
            bridge-pvid 5
        auto vmbr2
        iface vmbr2
            bridge-ports eno2 eno3
            bridge-vlan-aware yes
        iface eno2
            bridge-pvid 7
        iface eno3
            bridge-pvid 7
        auto vmbr1
        iface vmbr1 inet static
            address 10.0.0.1
            netmask 255.255.255.0
            address 2001:db8:1::1/64
            bridge-ports none
        auto eth3
        iface eth3
            ip-routing-table 222
            ip-routes 192.0.2.0/24
            ip-gateway 192.0.2.1
            arp-ip 192.0.2.254
            ip-routes 2001:db8:3::/64
            ip-gateway 2001:db8:3::1
        """)
    assert declared(output, "bridges") == {
        "vmbr0": {
            "ports": ["eno1"],
            "stp": False,
            "vlan_filtering": True,
            "vlans": ["2-4094"],
            "pvid": 5,
            "addresses": ["192.0.2.10/24", "198.51.100.10/28", "2001:db8::10/64"],
            "gateway": ["192.0.2.1", "fe80::1"],
        },
        "vmbr1": {"ports": [], "addresses": ["10.0.0.1/24", "2001:db8:1::1/64"]},
        "vmbr2": {"ports": ["eno2", "eno3"], "vlan_filtering": True, "pvid": 7},
    }
    assert declared(output, "networks")["eth3"] == {
        "mode": "routed",
        "uplink": "eth3",
        "table": 222,
        "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1", "arp_source": "192.0.2.254"},
        "ipv6": {"subnet": "2001:db8:3::/64", "gateway": "2001:db8:3::1"},
    }
    assert comments(output) == []


def test_what_ifup_does_not_bring_up_is_said(imported):
    _, output, _ = imported("iface br0 inet manual\n bridge_ports none\n")
    assert "# br0 is not marked auto" in output


def test_templates(imported):
    _, output, _ = imported("""\
        iface lan inet static
            bridge_ports none
            mtu 1400
            up echo one
        auto br0
        iface br0 inet static inherits lan
            address 10.0.0.1/24
            up echo two
        """)
    assert declared(output, "bridges") == {"br0": {"ports": [], "mtu": 1400, "addresses": ["10.0.0.1/24"]}}
    left = "\n".join(comments(output))
    assert "echo one" in left and "echo two" in left and "iface lan" not in left


@pytest.mark.parametrize(
    "first, second, why",
    [
        ("inet", "inet", "has another subnet"),
        ("inet", "inet6 router", "can't be of one network"),
    ],
)
def test_routed_stanzas_that_are_not_one_network(imported, first, second, why):
    subnet = {"inet": "192.0.2.0/24", "inet6": "2001:db8::/64"}
    text = "auto eth1\n"
    for number, words_ in enumerate((first, second)):
        family, _, role = words_.partition(" ")
        net = subnet[family] if not number else subnet[family].replace("192.0.2", "198.51.100")
        address = net.partition("/")[0][:-1] + "1" if family == "inet" else "2001:db8::1"
        text += f"iface eth1 {family} {'static' if role else 'manual'}\n ip-routing-table 222\n ip-routes {net}\n"
        text += f" address {address}\n netmask {net.partition('/')[2]}\n" if role else f" ip-gateway {address}\n"
        text += f" arp-ip {net.partition('/')[0][:-1]}9\n" if family == "inet" else ""
    _, output, _ = imported(text)
    assert len(declared(output, "networks")) == 1
    assert why in "\n".join(comments(output))


def test_ports_in_other_vlans(imported):
    """All ports of a bridge have the same VLANs here."""
    _, output, _ = imported("""\
        auto vmbr0
        iface vmbr0
            bridge-ports eno1 eno2
            bridge-vlan-aware yes
            bridge-pvid 3
        iface eno1
            bridge-pvid 7
            bridge-vids 20-30
        iface eno2
            bridge-access 9
        """)
    assert declared(output, "bridges") == {"vmbr0": {"ports": ["eno1", "eno2"], "vlan_filtering": True, "pvid": 3}}
    left = [line for line in comments(output) if "the ports of a bridge have the same VLANs here" in line]
    assert len(left) == 2 and "`bridge-pvid 7` and `bridge-vids 20-30`" in left[0] and "bridge-access 9" in left[1]


def test_routed_stanzas_that_ifup_would_refuse(imported):
    _, output, _ = imported("iface eth1 inet manual\n ip-routing-table 222\n ip-routes 192.0.2.0/24\n ip-forwarding 0\n")
    assert tomllib.loads(output) == {}
    assert len(comments(output)) == 1 and "ip-forwarding: 0" in comments(output)[0]


def test_two_tables_on_one_uplink(imported):
    _, output, _ = imported("""\
        auto eth1
        iface eth1 inet manual
            ip-routing-table 222
            ip-routes 192.0.2.0/24
            ip-gateway 192.0.2.1
            arp-ip 192.0.2.9
        iface eth1 inet6 manual
            ip-routing-table 223
            ip-routes 2001:db8::/64
            ip-gateway 2001:db8::1
        """)
    assert set(declared(output, "networks")) == {"eth1", "eth1-inet6"}
    assert comments(output) == []


# --- the grammar ----------------------------------------------------------------------------------------------------


def test_the_grammar(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b").write_text("auto b")
    (tmp_path / "more" / "a").write_text("auto a")
    (tmp_path / "more" / "c.dpkg-old").write_text("rubbish")
    (tmp_path / "one.cfg").write_text("iface one inet manual\n  up x")
    (tmp_path / "interfaces").write_bytes(
        b"# comment \\\nauto e\xff\n\t# another\n\niface e inet static\n  address\t10.0.0.1/\\\n24  \n up a \\\n  b\\\n"
        b"  # not one\nallow-hotplug f\nsource-directory more\nsource *.cfg nothing* \nmapping x*\n script /s\n map y\n"
        b"no-auto-down e\nsource gone\nauto"
    )
    items = interfaces.read(str(tmp_path / "interfaces"))
    shown = [
        (i.name, i.family, i.method, [(o.name, o.value) for o in i.options])
        if isinstance(i, interfaces.Stanza)
        else (i.keyword, *i.names)
        for i in items
    ]
    assert shown == [
        ("auto", "e\\xff"),
        ("e", "inet", "static", [("address", "10.0.0.1/24"), ("up", "a   b  # not one")]),
        ("allow-hotplug", "f"),
        ("auto", "a"),
        ("auto", "b"),
        ("one", "inet", "manual", [("up", "x")]),
        ("mapping", "x*"),
        ("script",),
        ("map",),
        ("no-auto-down", "e"),
        ("source", "gone"),
        ("auto",),
    ]
    assert items[1].line.number == 5 and items[1].options[1].line.number == 8


@pytest.mark.parametrize(
    "text, why",
    [
        ("mtu 1500", "FILE:1: 'mtu' stands in no stanza"),
        ("iface", "FILE:1: iface without a name"),
        ("iface e foo manual", "'foo' is no address family"),
        ("iface e inet", "'' is no method of inet"),
        ("iface e inet foo", "'foo' is no method of inet"),
        ("iface e inet static inherits t", "inherits from 't'"),
        ("iface e inet static inherits", "inherits from ''"),
        ("iface e inet manual\n mtu", "FILE:2: 'mtu' has no value"),
        ("mapping e*\n up x", "FILE:2: 'up' stands in no stanza"),
        ("auto e\n up x", "FILE:2: 'up' stands in no stanza"),
        ("[bridges.br0]\nports = []", "stands in no stanza"),
        ("source interfaces", "leads back here"),
        ("source ./*", "leads back here"),
        (b"\x7fELF\x00\x01", "NUL bytes"),
        (b"\x89PNG\r\n\x1a\n" * 50, "stands in no stanza"),
        (b"#" * (5 << 20), "larger than"),
        ("x" * 100_000, "stands in no stanza"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_files_that_ifup_would_refuse(imported, text, why):
    status, output, errors = imported(text)
    assert (status, output) == (2, "")
    assert why in errors and errors.count("\n") == 1 and len(errors) < 1500, errors


def test_files_that_source_each_other(tmp_path, imported):
    (tmp_path / "other").write_text("source interfaces\n")
    status, _, errors = imported("source other\n")
    assert status == 2 and "leads back here" in errors


def test_files_that_grow_without_end(tmp_path, imported):
    for number in range(1100):
        (tmp_path / f"f{number}").write_text(f"source f{number + 1}\n")
    status, _, errors = imported("source f0\n")
    assert status == 2 and errors.count("\n") == 1


@pytest.mark.parametrize("path", ["/nonexistent", "/proc/self/mem"])
def test_files_that_cannot_be_read(path):
    done = run(["import", "--interfaces", path])
    assert done.exit_code == 2 and path in done.stderr


def test_a_folder_that_is_none(tmp_path, imported):
    status, _, errors = imported("auto e\nsource-directory interfaces\n")
    assert status == 2 and "FILE:2" in errors


def test_hostile_names_and_values(imported):
    """Whatever stands in the file: what is printed is valid TOML of ours, one comment to the line."""
    hostile = [
        '"',
        "\\x",
        "\x1b[2J",
        "é",
        "a]b",
        "'''",
        "x" * 300,
        "../../etc",
        "%n",
        "br0\r",
        "\u2028",
        "#",
        "a.b.c",
        ":",
        "0",
        "-",
    ]
    text = ""
    for word in hostile:
        text += f"auto {word}\niface {word} inet static\n bridge_ports {word} eth0.{word}\n bridge_hw {word}\n mtu {word}\n"
        text += f" address {word}\n gateway {word}\n up {word}\n ip-routing-table {word}\n {word} {word}\n"
        text += f"iface b{word} inet manual\n bond-slaves {word}\n bond-mode {word}\n bond-miimon {word}\n"
        text += f"iface eth0.{word} inet6 manual\n vlan-raw-device {word}\n vlan-id {word}\n"
    status, output, errors = imported(text)
    assert (status, errors) == (0, "")
    assert "\x1b" not in output and "\u2028" not in output
    for line in output.splitlines():
        assert line.isprintable()


def test_many_lines(imported):
    """Linear: an hour for a large file would be a refusal."""
    lines = "auto br0\niface br0 inet manual\n bridge_ports none\n" + " up echo x\n" * 20_000
    lines += "".join(f"iface eth{n} inet manual\n mtu 1500\n" for n in range(2_000))
    status, output, _ = imported(lines)
    assert status == 0 and "`up echo x` and 19999 more are not carried over" in output and output.count("\n") > 2_000


def test_stanzas_of_every_kind_at_once(imported):
    status, output, _ = imported(RING + ROUTED.replace("eth0", "eth6").replace("eth1\n", "eth7\n"))
    assert status == 0
    parsed = tomllib.loads(output)
    assert {section: len(parts) for section, parts in parsed.items()} == {"vlans": 3, "bridges": 2, "bonds": 1, "networks": 2}


def test_words():
    assert option_values.seconds("15") == 15 and option_values.seconds("2.000") == 2
    for text in ("2.5", "-1", "", "1e3", "٣", "99999999999"):
        with pytest.raises(ValueError):
            option_values.seconds(text)
    assert stanzas.literal_ports("none") == ([], "")
    assert stanzas.literal_ports("eth0 regex a.* b noregex eth1 all") == (["eth0", "eth1"], "a.* b all")


# --- the live kernel ------------------------------------------------------------------------------------------------


def test_live():
    mac = "02:00:00:00:00:0{}".format
    links = [
        LinkDetails("lo", 1, "loopback"),
        LinkDetails("eth0", 2, mac=mac(1), master="bond0"),
        LinkDetails("eth1", 3, mac=mac(1), master="bond0"),
        LinkDetails("bond0", 4, "bond", mac=mac(1), mode="active-backup"),
        LinkDetails("bond0.5", 5, "vlan", mac=mac(1), parent="bond0", vid=5, protocol="802.1Q", master="br0", mtu=1400),
        LinkDetails("tap0", 6, "tun", mac=mac(6), master="br0"),
        LinkDetails("br0", 7, "bridge", mac=mac(1), stp=True, mtu=1400),
        LinkDetails("eth2", 8, mac=mac(2), master="br1", tagged="10,20-30", untagged=1),
        LinkDetails("br1", 9, "bridge", mac=mac(9), vlan_aware=True, up=False),
        LinkDetails("dummy0", 10, "dummy", mac=mac(7)),
        LinkDetails("wg0", 11, "wireguard"),
        LinkDetails("eth3", 12, mac=mac(3)),
        LinkDetails("eth0.9", 13, "vlan", mac=mac(1), parent="eth0", vid=9, protocol="802.1ad"),
    ]
    addresses = [
        import_facts.LiveAddress("lo", "127.0.0.1/8", True),
        import_facts.LiveAddress("br0", "10.0.0.1/24", True),
        import_facts.LiveAddress("br0", "2001:db8::1/64", True),
        import_facts.LiveAddress("br0", "2001:db8::dead/64", False),
        import_facts.LiveAddress("eth3", "10.3.0.1/24", True),
        import_facts.LiveAddress("dummy0", "10.4.0.1/32", True, "10.4.0.2"),
    ]
    routes = [
        import_facts.LiveRoute(254, "0.0.0.0/0", "br0", "10.0.0.254"),
        import_facts.LiveRoute(254, "::/0", "br0", "fe80::1", 1024),
        import_facts.LiveRoute(254, "::/0", "eth3", "fe80::2", 1024, "ra"),
        import_facts.LiveRoute(254, "10.9.0.0/16", "br0", "10.0.0.9"),
        import_facts.LiveRoute(254, "0.0.0.0/0", "br0", "203.0.113.1", 9),
        import_facts.LiveRoute(7, "10.8.0.0/16", "br0", "10.0.0.9", src="10.0.0.1", mtu=1400),
        import_facts.LiveRoute(254, "10.7.0.0/16", "br0", "10.0.0.9", protocol="bgp"),
        *(import_facts.LiveRoute(100, f"10.{n}.0.0/16", "eth3") for n in range(200)),
    ]
    settings = {
        "bond0": {"miimon": "50", "updelay": "0", "lacp_rate": "slow 0", "xmit_hash_policy": "layer3+4 1", "primary": "eth1"},
        "br0": {"forward_delay": "400", "hello_time": "200", "max_age": "600", "priority": "4096", "group_fwd_mask": "0x4000"}
        # Twice the forward delay, while the topology changes.
        | {"topology_change": "1", "ageing_time": "800"},
        "br1": {"ageing_time": "1000", "multicast_snooping": "0"},
    }
    rules = ["ip -4 rule add pref 5 lookup 7"]
    blocks = live.convert(import_facts.LiveHost(links, addresses, routes, rules, settings))
    settle(blocks)
    text = toml(["head"], blocks)
    assert tomllib.loads(text) == {
        "bonds": {
            "bond0": {
                "ports": ["eth0", "eth1"],
                "mode": "active-backup",
                "miimon": 50,
                "xmit_hash_policy": "layer3+4",
                "primary": "eth1",
            }
        },
        "vlans": {
            "bond0.5": {"parent": "bond0", "id": 5, "mtu": 1400},
            "eth0.9": {"parent": "eth0", "id": 9, "protocol": "802.1ad"},
        },
        "bridges": {
            "br0": {
                "ports": ["bond0.5"],
                "stp": True,
                "forward_delay": 4,
                "max_age": 6,
                "priority": 4096,
                "group_fwd_mask": 0x4000,
                "addresses": ["10.0.0.1/24", "2001:db8::1/64"],
                "gateway": ["10.0.0.254", "fe80::1"],
                "routes": [
                    {"to": "10.9.0.0/16", "via": "10.0.0.9"},
                    {"to": "0.0.0.0/0", "via": "203.0.113.1", "metric": 9, "onlink": True},
                    {"to": "10.8.0.0/16", "via": "10.0.0.9", "src": "10.0.0.1", "mtu": 1400, "table": 7},
                ],
            },
            "br1": {
                "ports": ["eth2"],
                "ageing": 10,
                "mcast_snooping": False,
                "vlan_filtering": True,
                "vlans": [10, "20-30"],
                "pvid": 1,
                "mac": mac(9),
            },
        },
        "dummies": {"dummy0": {"mac": mac(7), "addresses": ["10.4.0.1 peer 10.4.0.2/32"]}},
    }
    for word in ("tap0 master br0", "dead/64", "10.3.0.1/24", "vlan of br1: untagged none", "wireguard", "learned (ra)", "(bgp)"):
        assert word in text, word
    for word in ("more routes", "pref 5 lookup 7", "br1 is down", "hides its `ageing`"):
        assert word in text, word
    assert text.count("table 100") <= 100


MADE = {
    "virbr0": ("bridge", "libvirtd (network default)"),
    "mybr": ("bridge", "libvirtd (network lab)"),
    "lxdnet": ("bridge", "LXD"),
    "docker0": ("bridge", "Docker"),
    "br-0123456789ab": ("bridge", "Docker"),
    "lxcbr0": ("bridge", "LXC"),
    "incusbr0": ("bridge", "Incus"),
    "podman1": ("bridge", "Podman"),
    "cni-podman0": ("bridge", "Podman"),
    "fwbr100i0": ("bridge", "Proxmox VE"),
    "fwpr100p0": ("veth", "Proxmox VE"),
    "fwln100i0": ("veth", "Proxmox VE"),
    "tap100i0": ("tun", "Proxmox VE"),
    "cni0": ("bridge", "Kubernetes"),
}


def test_live_what_other_programs_made_is_theirs():
    """Each is named with its maker, and nothing else of it. A bridge of the admin's that libvirt only uses is declared."""
    links = [LinkDetails(name, number, kind) for number, (name, (kind, _)) in enumerate(MADE.items(), 2)]
    links += [
        LinkDetails("eth0", 1, master="vmbr0"),
        LinkDetails("vmbr0", 90, "bridge"),
        LinkDetails("br-0123456789", 91, "bridge"),
    ]
    links.append(LinkDetails("tap101i0", 92, "tun", master="vmbr0"))
    addresses = [import_facts.LiveAddress(name, "10.0.3.1/24", True) for name in MADE]
    routes = [import_facts.LiveRoute(254, "10.9.0.0/16", name, "10.0.3.9") for name in MADE]
    makers = {"virbr0": "libvirtd (network default)", "mybr": "libvirtd (network lab)", "lxdnet": "LXD"}
    blocks = live.convert(import_facts.LiveHost(links, addresses, routes, [], {}, makers))
    settle(blocks)
    text = toml(["head"], blocks)
    assert set(tomllib.loads(text)["bridges"]) == {"vmbr0", "br-0123456789"}
    for name, (kind, program) in MADE.items():
        assert f"`{name} ({kind})` is not carried over: {program} made it" in text, name
    assert "10.0.3" not in text


def test_libvirt_and_lxd_tell_what_they_made(fs):
    network = "<network{0}><name>{1}</name>{2}<bridge name='{3}'/></network{0}>"
    fs.create_file("/run/libvirt/network/default.xml", contents=network.format("status", "default", "", "virbr0"))
    fs.create_file("/etc/libvirt/qemu/networks/lab.xml", contents=network.format("", "lab", "<forward mode='nat'/>", "mybr"))
    fs.create_file("/etc/libvirt/qemu/networks/host.xml", contents=network.format("", "host", "<forward mode='bridge'/>", "br0"))
    fs.create_dir("/var/lib/incus/networks/private")
    assert import_facts._makers() == {
        "virbr0": "libvirtd (network default)",
        "mybr": "libvirtd (network lab)",
        "private": "Incus",
    }


def test_live_and_a_file_are_two_things(tmp_path):
    done = run(["import", "--live", "--interfaces", str(tmp_path / "x")])
    assert done.exit_code == 2 and "--live" in done.stderr


def test_nothing_is_left_behind(imported, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    imported(RING)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("vmnet-hook")]


def test_the_reader_alone_raises_our_own_errors(tmp_path):
    with pytest.raises(InputError):
        interfaces.read(str(tmp_path))


def test_an_interface_with_dhcp(imported):
    """`adopt` refuses it: the bridge is ifupdown's. (That this edit works is shown with the real dhclient.)"""
    _, output, _ = imported("auto eth0\niface eth0 inet dhcp\n")
    lines = "# iface eth0 inet manual\n# auto br0\n# iface br0 inet dhcp\n# bridge_ports eth0\n# bridge_hw eth0\n"
    assert lines in output and "`ifdown -i COPY eth0; ifup br0`" in output
    for text in ("auto br0\niface br0 inet dhcp\n bridge_ports eth0\n", "iface eth0 inet static\n address 192.0.2.2/24\n"):
        assert "which DHCP configures" not in imported(f"iface eth1 inet dhcp\n{text}")[1]

"""What of a configuration with mistakes serves, what is refused, and that `validate` names every mistake."""

# ruff: noqa: E501  (tables of inputs and messages)

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from scenario import LAN, PUBLIC, ROUTER, V4, V6

from vmnet_hooks import cli
from vmnet_hooks.declared import configuration
from vmnet_hooks.declared.compose import bind
from vmnet_hooks.engine.parts import find, is_declared
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.model.declaration import Config
from vmnet_hooks.model.guest import Domain, Vif

ROUTED = PUBLIC + V4 + V6
VLAN = '[vlans."eth0.30"]\nparent = "eth0"\nid = 30\n'
BR0 = '[bridges.br0]\nports = ["eth0.30"]\n'
NAT = '[nat.guests]\nsubnet = "10.0.0.0/24"\nout = "eth9"\nmasquerade = true\n'
MAC = "52:54:00:00:00:01"


def read(path, text: str, older: Config | None = None) -> Config:
    (path / "vmnet.toml").write_text(text)
    return configuration.usable(str(path), older)


def serving(declared: Config) -> set[str]:
    return {*declared.networks, *declared.parts}


def on_bridge(declared: Config, bridge: str = "br0") -> list[str]:
    vif = Vif(MAC, "tap0", bridge=bridge)
    return [network.name for _, network in bind(Domain("web1", vifs=(vif,)), declared, [])]


CASES = {
    "a network": (ROUTED.replace("table =", "tabel =") + ROUTER + LAN, {"edge", "lan"}, "networks.public: unknown key 'tabel'"),
    "a link and what stands on it": (VLAN.replace("30\n", '"x"\n') + BR0 + LAN + ROUTED, {"public"}, "vlans.eth0.30.id"),
    "two that contradict": (ROUTED + ROUTER.replace("333", "222"), {"public"}, "222 is already the table of networks.public"),
    "two on one bridge": (LAN + LAN.replace("lan", "lan2"), {"lan"}, "networks.lan2.bridge: br0 is already the bridge of networks.lan"),
    "a port of two": (BR0 + BR0.replace("br0", "br1") + VLAN, {"bridge:br0", "vlan:eth0.30"}, "is also a port of bridges.br0"),
    "an unknown section": (ROUTED + LAN.replace("networks", "network"), {"public"}, "unknown key 'network'"),
    "a section that is none": ("bonds = 5\n" + ROUTED, {"public"}, "bonds: must be tables"),
    "an uplink's VLAN": (VLAN.replace("id", "idd") + ROUTED.replace("eth1", "eth0.30") + LAN, {"lan"}, "unknown key 'idd'"),
    "a NAT": (NAT.replace("eth9", "e th9") + BR0 + VLAN, {"bridge:br0", "vlan:eth0.30"}, "nat.guests.out"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_right_serves(case, tmp_path):
    text, served, message = CASES[case]
    declared = read(tmp_path, text)
    assert serving(declared) == served
    assert message in str(declared.errors[0])
    with pytest.raises(ConfigError, match="vmnet.toml: "):
        configuration.load(str(tmp_path))


def test_declared_twice_is_neither(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.toml").write_text(LAN)
    declared = read(tmp_path, LAN + ROUTED)
    assert serving(declared) == {"public"}
    with pytest.raises(ConfigError, match="already declared in .*vmnet.toml"):
        declared.network("lan", "web1")


@pytest.mark.parametrize("find", ["network", "find", "part"])
def test_what_is_broken_is_refused_with_its_mistake(find, tmp_path):
    declared = read(tmp_path, LAN.replace("bridge =", "bridg =") + BR0 + VLAN.replace("id", "idd"))
    with pytest.raises(ConfigError, match="unknown key 'bridg'"):
        declared.network("lan", "web1")
    with pytest.raises(ConfigError, match="unknown key 'idd'"):
        declared.find("br0")
    with pytest.raises(ConfigError, match="unknown key 'idd'"):
        declared.check_usable("bridge:br0")


@pytest.mark.parametrize(
    ("text", "bridge", "refused"),
    [
        (LAN + 'mtu = "x"\n', "br0", True),
        (LAN + 'mtu = "x"\n', "br1", False),
        # Which bridge it has is not known: without a filter, no guest starts that may be on it.
        (LAN.replace("bridge =", "bridg ="), "br0", True),
        (LAN.replace("networks.", "network."), "br0", True),
        (LAN.replace('"bridged"', '"bridgd"'), "br0", True),
        (LAN.replace("bridge =", "bridg =") + LAN.replace("lan", "dmz"), "br0", False),
        (ROUTED.replace("uplink", "uplnk"), "br0", False),
        # Both are on it, in VLANs of their own.
        (LAN + "vlan = 10\n" + LAN.replace("lan", "dmz") + 'vlan = "x"\n' + "[bridges.br0]\nvlan_filtering = true\n", "br0", True),
    ],
)  # fmt: skip
def test_a_guest_by_its_bridge(text, bridge, refused, tmp_path):
    declared = read(tmp_path, text)
    assert declared.errors
    if refused:
        with pytest.raises(ConfigError, match="vmnet.toml: "):
            on_bridge(declared, bridge)
    else:
        assert on_bridge(declared, bridge) == ([] if "dmz" not in text else ["dmz"])


def test_the_older_stands_where_it_is_broken(tmp_path):
    older = read(tmp_path, ROUTED + LAN)
    declared = read(tmp_path, ROUTED.replace("uplink", "uplnk") + LAN.replace("br0", "br7"), older)
    assert declared.networks["public"]["uplink"] == "eth1" and declared.networks["lan"]["bridge"] == "br7"
    assert "unknown key 'uplnk'" in str(declared.errors[0]) and not declared.broken
    # A network that is no longer declared is gone.
    assert serving(read(tmp_path, ROUTED.replace("uplink", "uplnk"), declared)) == {"public"}
    # What contradicts what is new does not stand.
    other = ROUTER.replace("333", "222")
    assert serving(read(tmp_path, ROUTED.replace("uplink", "uplnk") + other, older)) == {"edge"}
    with pytest.raises(ConfigError, match="not TOML"):
        read(tmp_path, "rubbish", older)


def test_the_forwarding_of_a_bridge_outlives_a_mistake_in_its_nat(tmp_path):
    declared = read(tmp_path, NAT + "snta = 5\n" + LAN)
    assert [(part.id, str(part["subnet"])) for part in declared.hints] == [("nat:guests", "10.0.0.0/24")]
    declared = read(tmp_path, ROUTED + "tabel = 5\n")
    (network,) = declared.hints
    assert network.mode.links6(network) == ("eth1",)


# --- validate -----------------------------------------------------------------------------------------------------------------


def validate(path, *options: str):
    return CliRunner().invoke(cli.main, ["validate", "--config-dir", str(path), *options])


FIVE = (
    '[networks.public]\nmode = "routed"\nuplnk = "eth1"\ntable = "x"\n'
    'ipv4 = { subnet = "192.0.2.0/33", gateway = "192.0.2.1", arp_sourc = "192.0.2.254" }\n'
    '[bridges.br0]\nstp = "yes"\n[bond.bond0]\n'
)
MISTAKES = [
    "networks.public: unknown key 'uplnk'; did you mean 'uplink'?",
    "networks.public.uplink: missing",
    "networks.public.table: 'x' must be",
    "networks.public.ipv4: unknown key 'arp_sourc'; did you mean 'arp_source'?",
    "networks.public.ipv4.subnet: '192.0.2.0/33' is not a subnet",
    "bridges.br0.stp: 'yes' must be true or false",
    "unknown key 'bond'; did you mean 'bonds'?",
    "conf.d/b.toml: not TOML",
    "web.toml: interfaces[1].mac: 'x' is not a MAC address",
    "web.toml: interfaces[1].network: missing",
    "web.toml: interfaces[2]: names neither a mac nor an ifname",
]


def test_validate_names_every_mistake(tmp_path):
    for folder in ("conf.d", "domains.d"):
        (tmp_path / folder).mkdir()
    (tmp_path / "vmnet.toml").write_text(FIVE)
    (tmp_path / "conf.d" / "b.toml").write_text("rubbish")
    (tmp_path / "domains.d" / "web.toml").write_text('[[interfaces]]\nmac = "x"\n[[interfaces]]\nnetwork = "public"\n')
    done = validate(tmp_path)
    assert done.exit_code == 2 and all(line.startswith("vmnet-hook: /") for line in done.output.splitlines())
    missed = [mistake for mistake in MISTAKES if mistake not in done.output]
    assert not missed and done.output.count("\n") == len(MISTAKES), done.output
    done = validate(tmp_path, "--json")
    assert done.exit_code == 2 and len(json.loads(done.output)["errors"]) == len(MISTAKES)


def test_validate_names_what_contradicts(tmp_path):
    (tmp_path / "vmnet.toml").write_text(
        ROUTED + ROUTER.replace("333", "222") + BR0 + BR0.replace("br0", "br1") + BR0.replace("br0", "br2") + NAT + NAT.replace("guests", "more")
    )  # fmt: skip
    lines = validate(tmp_path).output.splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "networks.edge.table",
        "bridges.br1.ports",
        "bridges.br2.ports",
        "nat.more.subnet",
    ]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[vlans.eth0.100]\nparent = 'eth0'\nid = 100\n", 'write [vlans."eth0.100"]'),
        ("[vlans.eth0.100.200]\nparent = 'eth0.100'\nid = 200\n", 'write [vlans."eth0.100.200"]'),
        ("[vlans.eth0]\nparent = 'eth1'\nid = 1\n[vlans.eth0.100]\nparent = 'eth0'\nid = 100\n", 'write [vlans."eth0.100"]'),
        ("[networks.a.b]\nmode = 'bridged'\nbridge = 'br0'\n", 'write [networks."a.b"]'),
        ("[networks.a]\nmode = 'routed'\n[networks.a.ipv5]\nsubnet = '192.0.2.0/24'\n", "unknown key 'ipv5'; did you mean 'ipv6'?"),
    ],
)  # fmt: skip
def test_a_dot_without_quotes(text, remedy, tmp_path):
    (tmp_path / "vmnet.toml").write_text(text)
    done = validate(tmp_path)
    assert done.exit_code == 2 and remedy in done.output.replace("ipv4", "ipv6")
    if remedy.startswith("write "):
        quoted = remedy.removeprefix("write ")
        begin = text.rindex("[" + quoted[1:-1].replace('"', "")) if "." in quoted else 0
        end = text.index("]", begin) + 1
        (tmp_path / "vmnet.toml").write_text(text[:begin] + quoted + text[end:])
        assert validate(tmp_path).exit_code == 0, validate(tmp_path).output


@pytest.mark.parametrize("wrong", ["reahc = []\n", 'reach = ["lab"]\n', 'bridge = "virbr7"\nroutes = 3\n'])
def test_what_a_broken_network_implies_may_be_declared(wrong, tmp_path):
    """Its bridge and its NAT are not told to be taken down for a mistake in its table."""
    virtual = '[networks.lab]\nmode = "virtual"\nout = "eth0"\nipv4 = { subnet = "10.9.0.0/24" }\n'
    declared = read(tmp_path, virtual + wrong + LAN)
    bridge = "virbr7" if "virbr7" in wrong else "lab"
    for part_id in (f"bridge:{bridge}", "nat:lab"):
        assert declared.part(part_id) is None and is_declared(declared, part_id)
        with pytest.raises(ConfigError, match="networks.lab"):
            find(declared, part_id)
    assert not is_declared(read(tmp_path, virtual + LAN), "bridge:other")

"""Virtual networks: what is declared, and what is refused."""

import pytest
from scenario import Host, guest

from vmnet_hooks.declared import compose, configuration
from vmnet_hooks.errors import ConfigError, InputError
from vmnet_hooks.model.declaration import Config

LAB = '[networks.lab]\nmode = "virtual"\n'
V4, V6, OUT = 'ipv4 = { subnet = "10.9.0.0/24" }\n', 'ipv6 = { subnet = "fd00:9::/64" }\n', 'out = "eth0"\n'
NAT = LAB + V4 + OUT


@pytest.fixture
def load(tmp_path):
    def loaded(text: str) -> Config:
        (tmp_path / "vmnet.toml").write_text(text)
        return configuration.load(str(tmp_path))

    return loaded


REFUSED = {
    "no subnet": (LAB + OUT, "networks.lab.ipv4: missing, and ipv6 too"),
    "no way out": (LAB + V4, "networks.lab.out: missing; name the interface to the outside"),
    "no use for a way out": (NAT + 'forward = "isolated"\n', "networks.lab.out: is of no use"),
    "its own bridge as way out": (LAB + V4 + 'out = "lab"\n', "networks.lab.out: lab is the network's own"),
    "its own port as way out": (NAT + 'ports = ["eth0"]\n', "networks.lab.out: eth0 is the network's own"),
    "a bridge in itself": (NAT + 'ports = ["lab"]\n', "networks.lab.ports: lab is the bridge itself"),
    "a name that no link has": (
        NAT.replace("lab", "a-very-long-network-name"),
        "bridge: the network's name, 'a-very-long-network-name'",
    ),
    "IPv4 in ipv6": (LAB + 'ipv6 = { subnet = "10.9.0.0/24" }\n' + OUT, "subnet 10.9.0.0/24 is not of IPv6"),
    "a subnet without room": (LAB + 'ipv4 = { subnet = "10.9.0.0/31" }\n' + OUT, "has no room for a gateway and guests"),
    "host bits": (LAB + 'ipv4 = { subnet = "10.9.0.1/24" }\n' + OUT, "networks.lab.ipv4.subnet"),
    "a gateway elsewhere": (
        LAB + 'ipv4 = { subnet = "10.9.0.0/24", gateway = "10.8.0.1" }\n' + OUT,
        "gateway 10.8.0.1 is no address",
    ),
    "a broadcast gateway": (
        LAB + 'ipv4 = { subnet = "10.9.0.0/24", gateway = "10.9.0.255" }\n' + OUT,
        "gateway 10.9.0.255 is no address",
    ),
    "a subnet that is none": (LAB + "ipv4 = { subnet = 7 }\n" + OUT, "networks.lab.ipv4.subnet"),
    "an unknown key": (LAB + 'ipv4 = { subnet = "10.9.0.0/24", gatway = "10.9.0.1" }\n' + OUT, "did you mean 'gateway'?"),
    "a table that is none": (LAB + 'ipv4 = "10.9.0.0/24"\n' + OUT, "networks.lab.ipv4: must be a table"),
    "addresses where there are none": (LAB + V4 + 'forward = "none"\n', 'networks.lab.ipv4: is of no use with forward = "none"'),
    "SNAT without NAT": (NAT + 'forward = "routed"\nsnat = "192.0.2.1"\n', "networks.lab.snat: is of no use"),
    "SNAT of IPv6": (LAB + V6 + OUT + 'snat = "192.0.2.1"\n', "networks.lab.snat: 192.0.2.1 translates nothing"),
    "NAT66 without NAT": (
        LAB + 'ipv6 = { subnet = "fd00:9::/64", nat = true }\nforward = "routed"\n' + OUT,
        "networks.lab.ipv6.nat: is of no use",
    ),
    "a reach of none": (LAB + V4 + 'forward = "isolated"\nreach = ["lan"]\n', "networks.lab.reach: is of no use"),
    "an MTU below IPv6's": (LAB + V6 + OUT + "mtu = 1279\n", "networks.lab.mtu: 1279 is too small for IPv6"),
    "its bridge declared": (NAT + "[bridges.lab]\n", "networks.lab.bridge: bridges.lab is declared already"),
    "its NAT declared": (
        NAT + '[nat.lab]\nsubnet = "10.8.0.0/24"\nout = "eth0"\nmasquerade = true\n',
        "networks.lab.bridge: nat.lab is declared already",
    ),
    "one bridge for two": (
        NAT + '[networks.two]\nmode = "virtual"\nbridge = "lab"\nforward = "none"\n',
        "bridges.lab is declared already, in networks.lab",
    ),
    "one subnet for two": (
        NAT + '[networks.two]\nmode = "virtual"\nforward = "isolated"\nipv4 = { subnet = "10.9.0.128/25" }\n',
        "networks.two.ipv4: 10.9.0.128/25 overlaps 10.9.0.0/24 of networks.lab",
    ),
    "a bridged network on it": (
        NAT + '[networks.two]\nmode = "bridged"\nbridge = "lab"\n',
        "networks.two.bridge: lab is that of networks.lab; claim that network",
    ),
    "an isolated network to be reached": (
        NAT + 'reach = ["two"]\n[networks.two]\nmode = "virtual"\nforward = "isolated"\nipv4 = { subnet = "10.8.0.0/24" }\n',
        "networks.lab.reach: two is out of reach",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(load, name):
    text, said = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        load(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_what_it_stands_for(load):
    declared = load(
        LAB
        + 'ipv4 = { subnet = "10.9.0.0/24", gateway = "10.9.0.254" }\n'
        + V6.replace(" }", ", nat = true }")
        + OUT
        + "mtu = 1400\n"
    )
    network = declared.networks["lab"]
    assert set(declared.parts) == {"bridge:lab", "nat:lab", "nat:lab-6"}
    assert [str(a) for a in declared.parts["bridge:lab"]["addresses"]] == ["10.9.0.254/24", "fd00:9::1/64"]
    assert declared.parts["bridge:lab"]["mtu"] == 1400 and declared.parts["nat:lab-6"]["masquerade"]
    assert compose.needs(network, declared) == ("bridge:lab", "nat:lab", "nat:lab-6")
    assert declared.on_bridge("lab") == [network]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.8.0.5", "10.8.0.5 is in no subnet of network lab (10.9.0.0/24)"),
        ("fd00:9::5", "fd00:9::5 is in no subnet"),
        ("10.9.0.1", "10.9.0.1 is bridges.lab's own"),
    ],
)
def test_addresses_that_no_guest_has(tmp_path, address, said):
    host = Host(tmp_path, NAT)
    with pytest.raises(InputError, match=said.replace("(", r"\(").replace(")", r"\)")):
        host.plug(guest(1, ("lab", [address])))

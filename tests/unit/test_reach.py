"""What guests reach besides their own network: what a configuration may say, and what follows from it."""

import pytest

from vmnet_hooks.declared import compose
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.frontends import xen_claim
from vmnet_hooks.model.facts import Host, Link
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.networks import reach

MAC = "52:54:00:aa:00:10"
ROUTED = (
    '[networks.{name}]\nmode = "routed"\nuplink = "{uplink}"\ntable = {table}\n{more}'
    'ipv4 = {{ subnet = "192.0.{number}.0/24", gateway = "192.0.{number}.1", arp_source = "192.0.{number}.254" }}\n'
)
LAN2 = ROUTED.format(name="lan2", uplink="eth2", table=223, number=3, more="")
BRIDGED = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
OURS = '[bridges.br0]\naddresses = ["10.7.0.1/24"]\n'
NAT = '[nat.lan]\nsubnet = "10.7.0.0/24"\nout = "eth9"\nmasquerade = true\n'


def lan(more=""):
    return ROUTED.format(name="lan", uplink="eth1", table=222, number=2, more=more)


LINKS = ("tap0", "eth1", "eth2", "eth3", "eth9", "br0")


def composed(config, links=LINKS, **more):
    """The keys of what the sets of this file hold, for a guest with the NIC tap0 on network lan."""
    claim = Claim(
        "lan", MAC, addresses=("192.0.2.10",) if config.networks["lan"].mode.name != "bridged" else (), source="m", **more
    )
    [(vif, network)] = compose.bind(Domain("d", "u", (Vif(MAC, "tap0"),), (claim,)), config, ())
    kinds = {"tap0": "tun", "br0": "bridge"}
    there = {name: Link(n, 1500, f"02:00:00:00:00:{n:02x}", kinds.get(name, "")) for n, name in enumerate(links, 2)}
    host = Host(there, parts=config.links, networks=config.networks, nats=config.nats)
    sets = (
        "outsiders",
        "repliers",
        "mutes",
        "asking",
        "enclosed",
        "unbound",
        "inner",
        "unrouted",
        "ways",
        "reached",
        "passages",
        "bridged",
        "entries",
        "fenced",
        "exits4",
        "exits6",
    )
    names = {reach.group(name): name for name in config.networks}
    found = set()
    for key in compose.compose(vif, network, host):
        words = key.replace('"', "").replace(" . ", " ").split(" ")
        if words[0] == "nft" and len(words) > 3 and words[2] in sets:
            found.add(" ".join([*words[1:3], *(names.get(word, word) for word in words[3:])]))
    return found


TAP = {"inet outsiders tap0", "inet enclosed tap0", "inet reached lan lan", "inet fenced lan"}
OUT = {"inet ways eth1 lan", "inet exits4 eth1 lan 192.0.2.1"}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (lan(), {*TAP, *OUT}),
        (lan("limit_neighbours = false\n"), {*TAP, "inet ways eth1 lan"} - {"inet fenced lan"}),
        (lan('reach_host = "none"\n'), {*TAP, *OUT, "inet mutes tap0"}),
        (lan('reach_host = "all"\n'), {*TAP, *OUT} - {"inet outsiders tap0"}),
        (lan('reach = "all"\n'), {"inet outsiders tap0"}),
        (
            LAN2 + lan('reach = ["lan2"]\n'),
            {*TAP, *OUT, "inet reached lan lan2", "inet reached lan2 lan"},
        ),
        (
            LAN2 + lan('role = "router+host"\nexternal = "eth9"\nreach = ["lan2", "link:eth3"]\n'),
            {
                *TAP,
                "inet enclosed eth1",
                "inet inner eth1",
                *(f"inet ways {link} lan" for link in ("eth1", "eth9", "eth3")),
                *(f"inet passages eth1 {link}" for link in ("eth1", "eth9", "eth3")),
                *("inet reached lan lan2", "inet reached lan2 lan", "inet entries eth1 lan", "inet entries eth1 lan2"),
                *("inet ways eth1 lan2", "inet passages eth3 eth1", "inet entries eth3 lan"),
            },
        ),
        (
            lan('role = "router+host"\n'),
            {*TAP, "inet unbound tap0", "inet unbound eth1", "inet enclosed eth1", "inet inner eth1"}
            | {"inet ways eth1 lan", "inet entries eth1 lan", "inet passages eth1 eth1"},
        ),
        (BRIDGED, {"bridge outsiders tap0", "inet asking br0", "inet bridged br0 br0"}),
        (BRIDGED + 'reach_host = "all"\n', {"inet bridged br0 br0"}),
        (OURS + BRIDGED, {"bridge outsiders tap0", "bridge unrouted tap0", "inet asking br0", "inet bridged br0 br0"}),
        (OURS + BRIDGED + 'reach = "all"\n', {"bridge outsiders tap0", "inet asking br0"}),
        (
            OURS + NAT + BRIDGED + 'reach_host = "replies"\n',
            {"bridge outsiders tap0", "bridge repliers tap0", "inet asking br0", "inet enclosed br0", "inet inner br0"}
            | {"inet passages br0 br0", "inet passages br0 eth9", "inet bridged br0 br0"},
        ),
    ],
)
def test_what_a_guest_reaches(load, config, found):
    assert composed(load(config)) == found


def test_a_guest_that_routes_brings_what_others_send(load):
    assert "inet outsiders tap0" not in composed(load(lan()), roles=("router",))
    assert "inet outsiders tap0" in composed(load(lan('reach_host = "services"\n')), roles=("router",))
    # Without a filter, too.
    assert composed(load(BRIDGED), roles=("router",), filter=False) == {"inet asking br0", "inet bridged br0 br0"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('reach_host = "some"\n', "networks.lan.reach_host: 'some' must be one of none, replies, services, all"),
        (
            'reach = "lan2"\n',
            """networks.lan.reach: 'lan2' must be a list of networks and links, ["lan2", "link:eth3"], or "all\"""",
        ),
        ('reach = ["lan3"]\n', "networks.lan.reach: no network 'lan3' is declared; did you mean 'lan'?; a link is link:lan3"),
        ('reach = ["lan"]\n', "networks.lan.reach: lan is the network itself, whose guests reach one another; remove it"),
        ('reach = ["link:"]\n', "networks.lan.reach: ['link:']"),
        ('reach = ["link:a/b"]\n', "networks.lan.reach: ['link:a/b']"),
        ('reach = ["link:lo"]\n', "networks.lan.reach: ['link:lo'] holds 'link:lo', which is the host itself; see reach_host"),
        (
            'reach = ["link:all"]\n',
            "networks.lan.reach: ['link:all'] holds 'link:all', which stands for all interfaces in the kernel's settings",
        ),
        (
            'reach = ["link:eth3"]\n',
            "networks.lan.reach: link:eth3 is of no use with role host: the table of the network leads",
        ),
    ],
)
def test_refused(load, more, message):
    with pytest.raises(ConfigError) as refused:
        load(LAN2 + lan(more))
    assert message in str(refused.value)


def test_a_link_that_is_missing(load):
    """The guest starts all the same: what is there is set up."""
    config = load(lan('role = "router+host"\nreach = ["link:eth3"]\n'))
    without = composed(config, links=[link for link in LINKS if link != "eth3"])
    assert without == composed(config) and "inet ways eth3 lan" in without


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            BRIDGED + 'reach = ["link:eth3"]\n',
            "networks.lan.reach: is of no use: the bridge br0 is not declared, so what the host",
        ),
        (
            OURS + BRIDGED + 'reach = ["link:eth3"]\n',
            "networks.lan.reach: is of no use: the host does not route for bridges.br0; set",
        ),
        (
            OURS + BRIDGED.replace("lan", "lan2") + lan('role = "router+host"\nreach = ["lan2"]\n'),
            "networks.lan.reach: lan2 is out of reach: the host does not route for bridges.br0; set forwarding = true there",
        ),
        (
            OURS + NAT + BRIDGED.replace("lan", "lan2") + lan('reach = ["lan2"]\n'),
            "networks.lan.reach: lan2 is out of reach: guests of networks.lan send to their gateway elsewhere, which decides",
        ),
    ],
)
def test_a_bridge_that_the_host_does_not_route_for(load, config, message):
    with pytest.raises(ConfigError) as refused:
        load(config)
    assert message in str(refused.value)


def test_the_link_of_a_network_by_another_name(load):
    config = load(lan('role = "router+host"\nreach = ["link:eth3"]\n'))
    there = {name: Link(n, 1500, "", "", name=name) for n, name in enumerate(LINKS, 2)}
    there["eth3"] = Link(9, 1500, "", "", name="enp3s0")
    with pytest.raises(ConfigError, match=r"networks\.lan\.reach: eth3 is an alternative name of enp3s0; write enp3s0"):
        compose.compose_part(config.networks["lan"], Host(there, networks=config.networks))


def test_two_networks_of_one_group(load, monkeypatch):
    monkeypatch.setattr(reach, "group", lambda name: "5")
    with pytest.raises(ConfigError, match=r"networks\.lan2?: has the same link group as networks\.lan2?, by chance; rename"):
        load(LAN2 + lan())


def test_networks_of_scripts_are_open():
    found = xen_claim.network_of("route:eth0")
    assert found and (found["reach_host"], found["reach"]) == ("all", "all")


def test_groups_are_no_small_numbers():
    """Those are an admin's. iproute2 takes no more than 31 bits."""
    assert all(2**30 <= int(reach.group(name)) < 2**31 for name in ("lan", "lan2", "a" * 60))


def test_two_networks_in_one_vlan(load):
    """A guest that names no VLAN is in the bridge's own: both networks would have what either reaches."""
    aware = OURS + "vlan_filtering = true\npvid = 5\n" + BRIDGED
    other = BRIDGED.replace("lan", "lan2")
    assert load(aware + other + "vlan = 6\n").networks.keys() == {"lan", "lan2"}
    with pytest.raises(ConfigError, match=r"networks\.lan2\.bridge: br0 is already the bridge of networks\.lan; use one of them"):
        load(aware + other + "vlan = 5\n")

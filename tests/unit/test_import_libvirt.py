"""libvirt's networks as TOML: what `vmnet-hook import --libvirt` makes of each kind, and of what it can't carry over."""

import tomllib

import pytest

from vmnet_hooks.errors import InputError
from vmnet_hooks.importing.draft import settle, toml
from vmnet_hooks.importing.libvirt_networks import LibvirtNetwork, convert

NAT = """
<network><name>default</name><forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
 <bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:0a:0b:0c'/><domain name='lab.example' localOnly='yes'/>
 <dns><forwarder addr='192.0.2.53'/><forwarder domain='corp.example' addr='10.0.0.53' port='5353'/>
  <txt name='example' value='hello world'/><host ip='192.168.122.9'><hostname>printer</hostname></host>
  <srv service='sip' protocol='udp' target='pbx' port='5060' priority='10' weight='5'/></dns>
 <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
  <range start='192.168.122.2' end='192.168.122.254'><lease expiry='1' unit='hours'/></range>
  <host mac='52:54:00:AA:00:01' name='web1' ip='192.168.122.10'/></dhcp></ip>
 <ip family='ipv6' address='fd00:7::1' prefix='64'><dhcp><range start='fd00:7::100' end='fd00:7::1ff'/>
  <host name='web1' ip='fd00:7::10'/></dhcp></ip></network>"""
NETWORKS = {
    "nat": (
        NAT,
        {
            "default": {
                "mode": "virtual",
                "ipv4": {
                    "subnet": "192.168.122.0/24",
                    "gateway": "192.168.122.1",
                    "pool": ["192.168.122.2-192.168.122.254"],
                },
                "ipv6": {"subnet": "fd00:7::/64", "gateway": "fd00:7::1", "pool": ["fd00:7::100-fd00:7::1ff"]},
                "out": "eth0",
                "bridge": "virbr0",
                "mac": "52:54:00:0a:0b:0c",
                "domain": "lab.example",
                "dhcp": {"lease": 3600, "hosts": [{"mac": "52:54:00:aa:00:01", "ips": ["192.168.122.10"], "name": "web1"}]},
                "dns": {
                    "forwarders": ["192.0.2.53", "corp.example=10.0.0.53#5353"],
                    "records": ["printer A 192.168.122.9", "example. TXT hello world", "_sip._udp SRV 10 5 5060 pbx"],
                },
            }
        },
        ["a static lease goes to a MAC", "lets IPv6 in from outside", "out is that of the default route now (eth0)"],
    ),
    "NAT66, to one address": (
        "<network><name>n</name><forward mode='nat'><nat ipv6='yes'><address start='203.0.113.7' end='203.0.113.7'/></nat>"
        "<interface dev='eth1'/></forward><bridge name='virbr1'/><dns enable='no'/><ip address='10.3.0.1' prefix='24'/>"
        "<ip family='ipv6' address='fd00:3::1' prefix='64'/></network>",
        {
            "n": {
                "mode": "virtual",
                "ipv4": {"subnet": "10.3.0.0/24", "gateway": "10.3.0.1"},
                "ipv6": {"subnet": "fd00:3::/64", "gateway": "fd00:3::1", "nat": True},
                "out": "eth1",
                "snat": "203.0.113.7",
                "bridge": "virbr1",
                "dhcp": {"slaac": True},
            }
        },
        ["libvirt answers no DNS queries there", "form IPv6 addresses only beside a pool"],
    ),
    "no DNS; lengths of prefixes that are assumed": (
        "<network><name>d</name><forward mode='open'/><bridge name='virbr1'/><dns enable='no'/><ip address='172.16.0.1'><dhcp>"
        "<range start='172.16.0.5' end='172.16.0.9'><lease expiry='2'/></range></dhcp></ip>"
        "<route address='192.168.9.0' gateway='172.16.0.7'/></network>",
        {
            "d": {
                "mode": "virtual",
                "forward": "open",
                "ipv4": {"subnet": "172.16.0.0/16", "gateway": "172.16.0.1"},
                "bridge": "virbr1",
                "routes": [{"to": "192.168.9.0/24", "via": "172.16.0.7"}],
                "dhcp": {"lease": 120, "pool": ["172.16.0.5-172.16.0.9"]},
            }
        },
        ["libvirt answers no DNS queries there"],
    ),
    "routed": (
        "<network><name>r</name><forward mode='route' dev='eth1'/><bridge name='virbr1' zone='libvirt'/><mtu size='1400'/>"
        "<bandwidth><inbound average='1000'/></bandwidth><ip address='10.3.0.1' prefix='24'/>"
        "<route address='10.99.0.0' prefix='16' gateway='10.3.0.7'/></network>",
        {
            "r": {
                "mode": "virtual",
                "forward": "routed",
                "ipv4": {"subnet": "10.3.0.0/24", "gateway": "10.3.0.1"},
                "out": "eth1",
                "bridge": "virbr1",
                "mtu": 1400,
                "routes": [{"to": "10.99.0.0/16", "via": "10.3.0.7"}],
                "dns": {},
            }
        },
        ["rates of networks are not set", "firewalld's zones are its own"],
    ),
    "isolated, network boot": (
        "<network><name>i</name><bridge name='virbr2'/><ip address='10.4.0.1' prefix='24'><tftp root='/srv/tftp'/><dhcp>"
        "<range start='10.4.0.100' end='10.4.0.200'/><bootp file='pxelinux.0' server='10.4.0.1'/></dhcp></ip></network>",
        {
            "i": {
                "mode": "virtual",
                "forward": "isolated",
                "ipv4": {"subnet": "10.4.0.0/24", "gateway": "10.4.0.1", "pool": ["10.4.0.100-10.4.0.200"]},
                "bridge": "virbr2",
                "dhcp": {"lease": 3600, "boot": {"tftp_root": "/srv/tftp", "file": "pxelinux.0"}},
                "dns": {},
            }
        },
        [],
    ),
    "names of other domains; leases that do not end; addresses that guests form; nothing to boot": (
        "<network><name>a</name><bridge name='virbr4'/><domain name='lab.example'/><dns><txt name='t.example.org' value='x'/>"
        "<host ip='10.4.0.9'><hostname>www</hostname><hostname>www.example.org</hostname></host>"
        "<srv service='sip' protocol='udp' target='pbx.example.org' port='5060'/></dns>"
        "<ip address='10.4.0.1' prefix='24'><tftp root='/srv/tftp'/><dhcp><range start='10.4.0.100' end='10.4.0.200'>"
        "<lease expiry='0'/></range></dhcp></ip><ip family='ipv6' address='fd00:4::1' prefix='64'/></network>",
        {
            "a": {
                "mode": "virtual",
                "forward": "isolated",
                "ipv4": {"subnet": "10.4.0.0/24", "gateway": "10.4.0.1", "pool": ["10.4.0.100-10.4.0.200"]},
                "ipv6": {"subnet": "fd00:4::/64", "gateway": "fd00:4::1"},
                "domain": "lab.example",
                "bridge": "virbr4",
                "dhcp": {"lease": 2147483647, "slaac": True},
                "dns": {
                    "local": False,
                    "records": [
                        *("www A 10.4.0.9", "www.example.org. A 10.4.0.9", "t.example.org. TXT x"),
                        "_sip._udp SRV 0 0 5060 pbx.example.org.",
                    ],
                },
            }
        },
        ["there is no file to boot from it"],
    ),
    "very isolated": (
        "<network><name>v</name><bridge name='virbr3'/></network>",
        {"v": {"mode": "virtual", "forward": "none", "bridge": "virbr3"}},
        [],
    ),
    "open": (
        "<network><name>o</name><forward mode='open'/><bridge name='virbr5'/><ip address='10.5.0.1' prefix='24'/></network>",
        {
            "o": {
                "mode": "virtual",
                "forward": "open",
                "ipv4": {"subnet": "10.5.0.0/24", "gateway": "10.5.0.1"},
                "bridge": "virbr5",
                "dns": {},
            }
        },
        ['libvirt\'s other networks reach this one; here, those with reach = ["o"] do, both ways'],
    ),
    "on a bridge that is there": (
        "<network><name>b</name><forward mode='bridge'/><bridge name='br0'/><portgroup name='ten' default='yes'><vlan>"
        "<tag id='10'/></vlan></portgroup><portgroup name='trunk'><vlan trunk='yes'><tag id='10' nativeMode='untagged'/>"
        "<tag id='20'/></vlan><bandwidth><inbound average='9'/></bandwidth></portgroup></network>",
        {
            "b": {"mode": "bridged", "bridge": "br0"},
            "b-ten": {"mode": "bridged", "bridge": "br0", "vlan": 10},
            "b-trunk": {"mode": "bridged", "bridge": "br0", "vlan": 10, "tagged": [20]},
        },
        ["NICs that name no portgroup are in this one", "rates of networks are not set"],
    ),
    "macvtap": (
        "<network><name>m</name><forward mode='private'><interface dev='eth3'/></forward></network>",
        {},
        ["guests are on a NIC of its own kind"],
    ),
    "a route by a bridge that is there": (
        "<network><name>b</name><forward mode='bridge'/><bridge name='br0'/><route address='10.6.0.0' prefix='24' "
        "gateway='10.5.0.7'/></network>",
        {"b": {"mode": "bridged", "bridge": "br0"}},
        ["routes by a bridge that is there are its own"],
    ),
    "nothing to boot": (
        "<network><name>t</name><bridge name='virbr4'/><dns enable='no'/><ip address='10.4.0.1' prefix='24'><tftp/></ip>"
        "</network>",
        {
            "t": {
                "mode": "virtual",
                "forward": "isolated",
                "ipv4": {"subnet": "10.4.0.0/24", "gateway": "10.4.0.1"},
                "bridge": "virbr4",
            }
        },
        ["there is no file to boot from it"],
    ),
    "what the configuration refuses": (
        "<network><name>w</name><forward mode='open'/><bridge name='virbr5'/><mtu size='9'/><dns><txt name='a' value='\"'/></dns>"
        "<ip address='10.5.0.1' prefix='24'><dhcp><range start='10.6.0.5' end='10.6.0.9'/></dhcp></ip></network>",
        None,
        ["is not carried over", "10.6.0.5"],
    ),
}


def imported(*networks: tuple[str, str], way_out: str = "eth0") -> str:
    blocks = convert([LibvirtNetwork(*network) for network in networks], way_out)
    settle(blocks)
    return toml(["libvirt"], blocks)


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_comes_of_it(kind):
    xml, wanted, said = NETWORKS[kind]
    text = imported((xml.partition("<name>")[2].partition("<")[0], xml))
    found = tomllib.loads(text).get("networks", {})
    if wanted is not None:
        assert found == wanted
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for words in said:
        assert words in comments, text
    assert said or comments == "# libvirt"


def test_two_networks_of_one_subnet():
    text = imported(("default", NAT), ("twin", NAT.replace("default", "twin").replace("virbr0", "virbr9")))
    assert set(tomllib.loads(text)["networks"]) >= {"default"} and "overlaps 192.168.122.0/24 of networks.default" in text


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "no XML",
        "<network>",
        '<!DOCTYPE a [<!ENTITY b "cccccccc"><!ENTITY d "&b;&b;">]><network><name>&d;</name><bridge name="&d;"/></network>',
    ],
)
def test_hostile_documents(xml):
    try:
        text = imported(("bad\nname", xml))
    except InputError as error:
        assert "\n" not in str(error) and "bad" in str(error)
    else:
        assert "cccc" not in text
        tomllib.loads(text)


def test_hostile_names():
    name = 'a"\n[networks.evil]\nmode = "bridged"'
    text = imported((name, "<network><forward mode='open'/><bridge name='x\ny'/><ip address='10.5.0.1' prefix='24'/></network>"))
    assert set(tomllib.loads(text).get("networks", {})) == set()

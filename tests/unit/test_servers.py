"""Networks with a server: what a configuration may say of leases and names, what dnsmasq is told, and its leases."""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest
from scenario import Host, guest

from vmnet_hooks.agent import lessees
from vmnet_hooks.declared import compose
from vmnet_hooks.errors import ConfigError, InputError, KernelError
from vmnet_hooks.kernel import leases
from vmnet_hooks.model.facts import Host as Facts
from vmnet_hooks.model.facts import Server
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.model.objects.dnsmasq import Dnsmasq

BRIDGE = '[bridges.br5]\naddresses = ["10.9.0.1/24", "fd09::1/64"]\n'
NETWORK = '[networks.lan]\nmode = "bridged"\nbridge = "br5"\n'
LAN = BRIDGE + NETWORK
POOL = '[networks.lan.dhcp]\npool = ["10.9.0.100-10.9.0.199", "fd09::1:0-fd09::1:ffff"]\n'
HOSTS = 'hosts = [{ mac = "52:54:00:00:00:01", ips = ["10.9.0.10", "fd09::10"], name = "DB1" }]\n'
MAC = "52:54:00:aa:00:10"


def server(config, **facts):
    network = config.networks["lan"]
    host = Facts(parts=config.links, networks=config.networks, nats=config.nats, **facts)
    found = compose.compose_part(network, host)
    return found.get(Dnsmasq.key_of("lan"))


def lines(config, **facts):
    return server(config, **facts).conf.splitlines()


def test_pool(load):
    found = lines(load(LAN + POOL + 'domain = "lan.example"\nlease = 600\n'))
    assert {
        *("bind-dynamic", "interface=br5", "except-interface=lo", "port=0", "domain=lan.example", "dhcp-ignore-clid"),
        *("dhcp-range=10.9.0.100,10.9.0.199,255.255.255.0,600", "dhcp-range=fd09::1:0,fd09::1:ffff,64,600"),
        *("dhcp-leasefile=/var/lib/vmnet-hooks/dnsmasq/lan/leases", "dhcp-lease-max=65536", "enable-ra"),
        # The host does not route for the bridge.
        *("dhcp-option=option:router", "ra-param=br5,0,0"),
    } <= set(found)


@pytest.mark.parametrize("last", ["10.9.1.0", "10.9.2.255", "10.9.4.255", "10.9.16.255", "10.10.0.255", "10.9.4.177"])
def test_many_macs_in_sequence_are_told_apart(load, last):
    """All addresses are leased, and of as many guests as there is room for, few are offered the same one first."""
    text = f'[networks.lan.dhcp]\npool = ["10.9.1.0-{last}"]\n'
    ranges = [line.partition("=")[2].split(",") for line in lines(load(LAN.replace("/24", "/8") + text)) if "dhcp-range" in line]
    starts, ends = ([int(IPv4Address(words[at])) for words in ranges] for at in (0, 1))
    assert starts[0] == int(IPv4Address("10.9.1.0")) and ends[-1] == int(IPv4Address(last))
    assert starts[1:] == [end + 1 for end in ends[:-1]]
    size = ends[0] - starts[0] + 1
    offered = Counter(sdbm(0x525400123400 + number) % size for number in range(min(size, 4000)))
    assert offered.total() - len(offered) <= offered.total() // 10


def sdbm(mac: int) -> int:
    """dnsmasq's hash of a MAC (dhcp.c, address_allocate), in 32 bits."""
    found = 0
    for byte in mac.to_bytes(6, "big"):
        found = (byte + (found << 6) + (found << 16) - found) & 0xFFFFFFFF
    return found


def test_a_router_tells_itself(load):
    found = lines(load(LAN.replace("br5]", "br5]\nforwarding = true", 1) + POOL))
    assert "dhcp-option=option:router,10.9.0.1" in found and not [line for line in found if line.startswith("ra-param")]
    found = lines(load(LAN + POOL + 'gateway = "10.9.0.254"\nra = false\n'))
    assert "dhcp-option=option:router,10.9.0.254" in found and "enable-ra" not in found


def test_options(load):
    text = LAN.replace("br5]", "br5]\nmtu = 1400", 1) + POOL
    text += 'dns = ["192.0.2.53", "2001:db8::53"]\nntp = ["192.0.2.123"]\nsearch = ["a.example", "b.example"]\nslaac = true\n'
    text += 'routes = [{ to = "10.0.0.0/8", via = "10.9.0.7" }]\ngateway = "10.9.0.254"\n'
    assert {
        "dhcp-option=option:dns-server,192.0.2.53",
        "dhcp-option=option6:dns-server,[2001:db8::53]",
        "dhcp-option=option:ntp-server,192.0.2.123",
        "dhcp-option=option:domain-search,a.example,b.example",
        "dhcp-option=option:classless-static-route,10.0.0.0/8,10.9.0.7,0.0.0.0/0,10.9.0.254",
        "dhcp-option=option:mtu,1400",
        "dhcp-range=fd09::1:0,fd09::1:ffff,slaac,64,86400",
    } <= set(lines(load(text)))


def test_guests_form_addresses(load):
    """Without a pool of IPv6 too; not of a prefix that is no /64, and not unasked."""
    four = LAN + '[networks.lan.dhcp]\npool = ["10.9.0.100-10.9.0.199"]\n'
    assert {"dhcp-range=fd09::,ra-stateless,64", "enable-ra"} <= set(lines(load(four + "slaac = true\n")))
    for text in (four, four.replace("fd09::1/64", "fd09::1/56") + "slaac = true\n"):
        assert not [line for line in lines(load(text)) if "fd09" in line and "range" in line or line == "enable-ra"]


def test_static_leases_alone(load):
    found = server(load(LAN + "[networks.lan.dhcp]\nkeep_leases = false\n" + HOSTS))
    assert found.hosts == "52:54:00:00:00:01,10.9.0.10,[fd09::10],db1\n" and not found.keep
    assert "dhcp-range=10.9.0.0,static,255.255.255.0,86400\ndhcp-range=fd09::,static,64,86400\n" in found.conf


def test_a_static_lease_more_is_no_restart(load):
    pool = LAN + '[networks.lan.dhcp]\npool = ["10.9.0.100-10.9.0.101"]\n'
    few, more = server(load(pool)), server(load(pool + HOSTS.replace(', "fd09::10"', "").replace(', name = "DB1"', "")))
    assert few.conf == more.conf and few.hosts != more.hosts


def test_the_name_of_a_static_lease_is_no_others(load):
    found = server(load(LAN + POOL + HOSTS)).conf
    assert "dhcp-name-match=set:taken,db1\ndhcp-name-match=set:taken,db1.*\n" in found


def test_boot(load):
    found = lines(load(LAN + POOL + 'boot = { file = "pxelinux.0", tftp_root = "/srv/tftp" }\n'))
    assert {"dhcp-boot=pxelinux.0", "enable-tftp", "tftp-root=/srv/tftp"} <= set(found)
    assert "dhcp-boot=a.efi,,10.9.0.2" in lines(load(LAN + POOL + 'boot = { file = "a.efi", server = "10.9.0.2" }\n'))


def test_names(load):
    text = LAN + POOL + 'domain = "lan.example"\n[networks.lan.dns]\n'
    text += 'records = ["www A 10.9.0.5", "WWW.other.example. AAAA fd09::5", "@ TXT hello, world", "a CNAME www", '
    text += '"_sip._udp SRV 10 5 5060 pbx.example.org."]\nforwarders = ["192.0.2.53", "corp.example=10.0.0.53#5353"]\n'
    assert {
        *("local=/lan.example/", "rev-server=10.9.0.0/24", "rev-server=fd09::/64", "domain-needed", "no-resolv"),
        *("server=192.0.2.53", "server=/corp.example/10.0.0.53#5353", "host-record=www.lan.example,10.9.0.5"),
        *("host-record=www.other.example,fd09::5", 'txt-record=lan.example,"hello, world"'),
        *("cname=a.lan.example,www.lan.example", "srv-host=_sip._udp.lan.example,pbx.example.org,5060,10,5"),
    } <= set(lines(load(text)))
    assert not {"no-resolv", "port=0", "dhcp-authoritative"} & set(lines(load(LAN + "[networks.lan.dns]\n")))
    found = lines(load(LAN + '[networks.lan.dns]\nlocal = false\ndomain = "x"\nforwarders = ["corp.example=10.0.0.53"]\n'))
    assert not [line for line in found if line.startswith(("local=", "rev-server=", "no-resolv"))]
    assert "no-resolv" in lines(load(LAN + "[networks.lan.dns]\nforwarders = []\n"))


def test_no_server(load):
    assert server(load(LAN)) is None and server(load(LAN + '[networks.lan.dhcp]\ndomain = "x"\n')) is None


@pytest.mark.skipif(not shutil.which("dnsmasq", path="/usr/sbin:/usr/bin"), reason="needs dnsmasq: apt-get install dnsmasq-base")
def test_dnsmasq_takes_it(load, tmp_path):
    text = LAN + POOL + HOSTS + 'domain = "lan.example"\nroutes = [{ to = "10.0.0.0/8", via = "10.9.0.7" }]\n'
    text += 'boot = { file = "tftp://x/a?b=1&c", tftp_root = "/srv/tftp" }\nntp = ["192.0.2.1", "fd09::7"]\nsearch = ["a"]\n'
    text += '[networks.lan.dns]\nforwarders = ["192.0.2.53#5353"]\nrecords = ["@ TXT v=spf1 -all; x", "_a._b SRV 1 2 3 c"]\n'
    (tmp_path / "conf").write_text(server(load(text)).conf)
    command = ["/usr/sbin/dnsmasq", "--test", f"--conf-file={tmp_path}/conf"]
    assert "syntax check OK" in subprocess.run(command, capture_output=True, text=True).stderr


REFUSED = {
    'pool = ["10.9.0.100"]': "write 10.9.0.100-10.9.0.200",
    'pool = ["10.9.0.200-10.9.0.100"]': "ends before it begins; write 10.9.0.100-10.9.0.200",
    'pool = ["10.9.0.2-fd09::1"]': "different families",
    'pool = ["10.8.0.100-10.8.0.200"]': "in no subnet of bridges.br5; its subnets are 10.9.0.0/24, fd09::/64",
    'pool = ["10.9.0.200-10.9.1.5"]': "in no subnet",
    'pool = ["10.9.0.1-10.9.0.5"]': "has the gateway 10.9.0.1 in it",
    'pool = ["10.9.0.250-10.9.0.255"]': "has the broadcast address 10.9.0.255 in it",
    'pool = ["10.9.0.10-10.9.0.20", "10.9.0.20-10.9.0.30"]': "overlap",
    "pool = ['10.9.0.10-10.9.0.20\\nport=1']": "is not an IP address",
    'hosts = [{ mac = "52:54:00:00:00:01" }]': "neither ips nor a name",
    'hosts = [{ mac = "52:54:00:00:00:01", ips = ["10.8.0.1"] }]': "in no subnet",
    'hosts = [{ mac = "52:54:00:00:00:01", ips = ["10.9.0.1"] }]': "is the gateway",
    'hosts = [{ mac = "52:54:00:00:00:01", ips = ["10.9.0.2", "10.9.0.3"] }]': "one of each",
    'hosts = [{ mac = "52:54:00:00:00:01", name = "a,b" }]': "is not the name of a host",
    **{
        f'hosts = [{{ mac = "52:54:00:00:00:01", name = "{name}" }}]': "choose another name"
        for name in ("ignore", "Infinite", "3600", "2h", "1D")
    },
    'hosts = [{ mac = "52:54:00:00:00:01", name = "a" }, { mac = "52:54:00:00:00:02", name = "A" }]': "a is given twice",
    'hosts = [{ mac = "52:54:00:00:00:01", name = "a" }, { mac = "52:54:00:00:00:01", name = "b" }]': "is given twice",
    'boot = { file = "a" }': "give a pool or hosts",
    'pool = ["10.9.0.10-10.9.0.20"]\nboot = { file = "a,b" }': "is no file to boot",
    'pool = ["10.9.0.10-10.9.0.20"]\nboot = { file = "a", tftp_root = "/a\\nb" }': "is no folder",
    'pool = ["10.9.0.10-10.9.0.20"]\nboot = { file = "a", tftp_root = "/a", server = "10.9.0.2" }': "remove one",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_leases(load, text):
    with pytest.raises(ConfigError) as caught:
        load(LAN + "[networks.lan.dhcp]\n" + text + "\n")
    assert REFUSED[text] in str(caught.value) and "networks.lan.dhcp" in str(caught.value) and "\n" not in str(caught.value)


REFUSED_NAMES = {
    'forwarders = ["example"]': "is not an IP address",
    'forwarders = ["192.0.2.1#0"]': "has no port",
    'forwarders = ["a/b=192.0.2.1"]': "is not a domain name",
    'records = ["www"]': "write NAME TYPE DATA",
    'records = ["www MX 10 a"]': "is no record of type A, AAAA, TXT, SRV, CNAME",
    'records = ["www A fd09::1"]': "is not an IPv4 address",
    'records = ["www A 10.9.0.1 10.9.0.2"]': "more than one value",
    "records = ['www TXT a\"b']": "printable ASCII",
    'records = ["www TXT a\\nport=1"]': "printable ASCII",
    'records = ["a,b A 10.9.0.1"]': "is not a domain name",
    'records = ["_a SRV 1 2 70000 b"]': "a number from 0 to 65535",
    'records = ["_a SRV 1 2 b"]': "is incomplete",
    'records = ["@ A 10.9.0.1"]': "there is none; give domain",
    'records = ["a CNAME b", "a A 10.9.0.1"]': "is an alias",
}


@pytest.mark.parametrize("text", REFUSED_NAMES)
def test_refused_names(load, text):
    with pytest.raises(ConfigError) as caught:
        load(LAN + "[networks.lan.dns]\n" + text + "\n")
    assert REFUSED_NAMES[text] in str(caught.value) and "networks.lan.dns" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NETWORK, "has no declared address to serve at"),
        ("[bridges.br5]\n" + NETWORK, "has no declared address to serve at"),
        (BRIDGE + "anycast_gateway = true\n" + NETWORK, "has anycast_gateway"),
        (BRIDGE + "vlan_filtering = true\npvid = 1\n" + NETWORK + "vlan = 7\n", "in VLAN 1"),
        ('[networks.lan]\nmode = "hostroute"\nnetdev = "eth9"\n', "is for guests on a bridge"),
    ],
)
@pytest.mark.parametrize("table", [POOL, "[networks.lan.dns]\n"])
def test_where_there_can_be_no_server(load, text, why, table):
    with pytest.raises(ConfigError, match=why):
        load(text + table)


def test_a_name_that_is_no_units(load):
    with pytest.raises(ConfigError, match="rename the network"):
        load((LAN + POOL).replace("networks.lan", 'networks."l+n"'))


@pytest.mark.parametrize(
    ("address", "why"), [("10.9.0.150", "in the pool 10.9.0.100-10.9.0.199"), ("10.9.0.10", "leased to 52:54:00:00:00:01")]
)
def test_addresses_that_others_may_lease(load, address, why):
    claim = Claim("lan", MAC, addresses=(address,), source="m")
    with pytest.raises(InputError, match=why):
        compose.bind(Domain("web", "u", (Vif(MAC, "tap0"),), (claim,)), load(LAN + POOL + HOSTS), ())


def test_what_keeps_it_from_starting(load):
    with pytest.raises(ConfigError, match="networks.lan.dhcp.pool: dnsmasq is not installed"):
        server(load(LAN + POOL), servers={"lan": Server(False, "dnsmasq is not installed; apt install dnsmasq-base")})
    assert server(load(LAN + POOL), servers={"lan": Server(True)}).unit


# --- up, and guests ---------------------------------------------------------------------------------------------------------

SERVED = LAN + POOL + HOSTS + "[networks.lan.dns]\n"
VIRTUAL = '[networks.lan]\nmode = "virtual"\nout = "eth0"\nantispoof = "leased"\n'


def test_up_brings_it(tmp_path):
    host = Host(tmp_path, SERVED)
    assert [drift.what for drift in host.check()] == ["is declared, and not up"] * 2
    assert {owner.id for owner in host.up()} == {"bridge:br5", "network:lan"}
    assert host.check() == [] and "dnsmasq lan" in host.kernel.world
    stopped = replace(host.kernel.world["dnsmasq lan"], runs=False)
    host.kernel.put(stopped)
    assert [drift.what for drift in host.check()] == ["dnsmasq lan: does not run with this configuration"]
    host.repair()
    assert host.check() == [] and host.kernel.world["dnsmasq lan"].runs
    host.down()
    assert "dnsmasq lan" not in host.kernel.world


def test_without_records(tmp_path):
    """The server of a declared bridge goes on serving, until `up` has it in the records again."""
    host = Host(tmp_path, SERVED)
    host.up()
    host.close()
    (tmp_path / "run" / "state.db").unlink()
    lost = [drift for drift in host.check() if drift.key == "dnsmasq lan"]
    assert [(drift.kind, drift.remedy) for drift in lost] == [("unrecorded", "vmnet-hook up")]
    host.repair()
    assert "dnsmasq lan" in host.kernel.world
    host.up()
    assert host.check() == []


def test_what_can_not_start_alone_is_not_up(tmp_path):
    """The boot must not fail for it: bridges are up."""
    host = Host(tmp_path, SERVED)
    host.kernel.servers["lan"] = "dnsmasq is not installed; apt install dnsmasq-base"
    with pytest.raises(ConfigError, match="networks.lan.dhcp.pool: dnsmasq is not installed"):
        host.up()
    assert "br5" in host.kernel.links and "dnsmasq lan" not in host.kernel.world


def test_guests(tmp_path):
    """One with addresses has a name, and no lease; one without has a lease, and is held to its MAC."""
    host = Host(tmp_path, SERVED)
    host.up()
    named, pooled = guest(1, ("lan", ["10.9.0.20"])), guest(2, ("lan", []))
    for domain in (named, pooled):
        host.add_taps(domain)
        host.plug(domain)
    world = set(host.kernel.world)
    assert host.kernel.world["host-name t1.0"].path == "/run/vmnet-dnsmasq/names/lan/t1.0" and "host-name t2.0" not in world
    assert {f'nft bridge {name} "t{number}.0"' for name in ("leasing", "guarded") for number in (1, 2)} <= world
    assert [key for key in world if "chaddrs" in key] == [
        f'nft bridge chaddrs "t2.0" . {pooled.vifs[0].mac} . 0x{pooled.vifs[0].mac.replace(":", "").lstrip("0")}'
    ]
    assert host.check() == []


def test_guests_that_are_held_to_their_leases(tmp_path):
    """One with declared addresses is held to these, one without to what it has leased by now."""
    host = Host(tmp_path, SERVED.replace('"br5"\n', '"br5"\nantispoof = "leased"\n'))
    host.up()
    named, pooled = guest(1, ("lan", ["10.9.0.20"])), guest(2, ("lan", []))
    for domain in (named, pooled):
        host.add_taps(domain)
        host.plug(domain)

    def sources():
        return [key.split(" . ")[2] for key in host.kernel.world if key.startswith('nft bridge sources4 "t2.0"')]

    assert sources() == [] and 'nft bridge addressed "t2.0"' in host.kernel.world and host.check() == []
    assert [key for key in host.kernel.world if "lessees" in key][0].startswith('nft bridge lessees "t2.0" . 0x')
    for address in ("10.9.0.100", "10.9.0.101"):
        host.kernel.leases["lan"] = {pooled.vifs[0].mac: (address,)}
        assert {drift.kind for drift in host.check()} <= {"edited", "unwanted"}
        assert any("what the guest has leased, has changed" in drift.what for drift in host.check())
        host.repair()
        assert sources() == [address] and host.check() == []
    host.unplug(pooled)
    assert not [key for key in host.kernel.world if '"t2.0"' in key]
    # As after its next start.
    host.add_taps(pooled)
    host.plug(pooled)
    assert sources() == ["10.9.0.101"]
    host.kernel.leases["lan"] = {}
    host.repair()
    assert sources() == [] and host.check() == []
    # What is leased no more, by an edit, may be another guest's by now; what can't be a lease of the network's is none.
    mine = f'hosts = [{{ mac = "{pooled.vifs[0].mac}", ips = ["10.9.0.30"] }}, '
    host.configure(SERVED.replace('"br5"\n', '"br5"\nantispoof = "leased"\n').replace("hosts = [", mine))
    for address, wanted in {
        "10.9.0.100": True,
        "10.9.0.30": True,
        "10.9.0.10": False,
        "10.9.0.20": False,
        "10.9.0.1": False,
        "0.0.0.0": False,
        "192.0.2.7": False,
    }.items():
        host.kernel.leases["lan"] = {pooled.vifs[0].mac: (address,)}
        host.up()
        host.repair()
        assert sources() == ([address] if wanted else []) and host.check() == [], address


def test_a_lease_that_could_not_be_taken_away_is_taken_away_later(tmp_path):
    host, notes = Host(tmp_path, SERVED.replace('"br5"\n', '"br5"\nantispoof = "leased"\n')), []
    host.up()
    pooled = guest(2, ("lan", []))
    host.add_taps(pooled)
    host.plug(pooled)
    agent = SimpleNamespace(
        place=SimpleNamespace(session=lambda: nullcontext(host.session())), note=lambda _, text, __: notes.append(text)
    )
    following = lessees.Lessees(agent)
    host.kernel.leases["lan"] = {pooled.vifs[0].mac: ("10.9.0.100",)}
    following._follow("lan")
    [key] = [key for key in host.kernel.world if key.startswith('nft bridge sources4 "t2.0"')]
    host.kernel.leases["lan"] = {}
    host.kernel.stuck.add(key)
    following._follow("lan")
    assert key in host.kernel.world and "its lease" in notes[0]
    host.kernel.stuck.clear()
    following._follow("lan")
    assert key not in host.kernel.world and host.check() == [] and len(notes) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            LAN.replace('"br5"\n', '"br5"\nantispoof = "leased"\n'),
            'antispoof: "leased" is for guests with leases; give the network a pool',
        ),
        (LAN.replace('"br5"\n', '"br5"\nantispoof = "lease"\n'), 'antispoof: .lease. must be true, false or "leased"'),
        (VIRTUAL + 'ipv4 = { subnet = "10.9.0.0/24" }\n', "antispoof"),
    ],
)
def test_leases_that_there_are_not(load, text, why):
    with pytest.raises(ConfigError, match=why):
        load(text)


def test_a_virtual_network_holds_guests_to_their_leases(load):
    config = load(VIRTUAL + 'ipv4 = { subnet = "10.9.0.0/24", pool = ["10.9.0.9-10.9.0.20"] }\n')
    network = config.networks["lan"]
    assert network.mode.follows_leases(network)


def test_no_guard_without_a_filter(tmp_path):
    host = Host(tmp_path, SERVED.replace('bridge = "br5"', 'bridge = "br5"\nantispoof = false'))
    host.up()
    domain = guest(2, ("lan", []))
    host.add_taps(domain)
    host.plug(domain)
    assert not [key for key in host.kernel.world if "leasing" in key or "guarded" in key]


# --- leases -----------------------------------------------------------------------------------------------------------------


def test_leases():
    text = (
        "1900000000 52:54:00:aa:00:10 10.9.0.100 web 01:52:54:00:aa:00:10\n"
        "0 52:54:00:aa:00:11 10.9.0.101 * *\n"
        "duid 00:01:00:01:2e:00:00:01:02:00:00:00:00:01\n"
        "1900000000 11141136 fd09::1:7 web 00:01:00:01:2e:11:22:33:52:54:00:aa:00:10\n"
        "1900000000 11141137 fd09::1:8 * 00:03:00:01:52:54:00:aa:00:11\n"
        "1900000000 11141138 fd09::1:9 * 00:04:11:22\n"
        "nonsense\n\n1 2 3\n"
        "1900000000 52:54:00:aa:00:12 10.9.0.999 * *\n1900000000 52:54:00:aa:00:12  * *\n1900000000 52:54:00:aa:00:12 a\0 * *\n"
        f"1900000000 52:54:00:aa:00:12 10.9.0.0/24 * *\n{'9' * 5000} 52:54:00:aa:00:12 10.9.0.102 * *\n"
    )
    assert list(leases.parsed(text)) == [
        leases.Lease("10.9.0.100", "52:54:00:aa:00:10", "web", 1900000000),
        leases.Lease("10.9.0.101", "52:54:00:aa:00:11", "", 0),
        leases.Lease("fd09::1:7", "52:54:00:aa:00:10", "web", 1900000000),
        leases.Lease("fd09::1:8", "52:54:00:aa:00:11", "", 1900000000),
        leases.Lease("fd09::1:9", "", "", 1900000000),
    ]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_no_file_of_leases(make, tmp_path, monkeypatch):
    """The server's user has put something else there."""
    monkeypatch.setattr(Dnsmasq, "leases_of", lambda _name: str(tmp_path / "leases"))
    make(tmp_path / "leases")
    with suppress(KernelError):
        assert leases.of("lan", 0) == []


def test_a_file_of_leases_that_is_being_written(tmp_path, monkeypatch):
    """dnsmasq empties its file, and writes it anew."""
    monkeypatch.setattr(Dnsmasq, "leases_of", lambda _name: str(tmp_path / "leases"))
    lines = [f"0 52:54:00:aa:00:{number:02x} 10.9.0.{number} * *\n" for number in range(1, 101)]
    (tmp_path / "leases").write_text("".join(lines[:30]))
    rest = threading.Timer(0.02, lambda: (tmp_path / "leases").write_text("".join(lines)))
    rest.start()
    assert len(leases.of("lan", 0)) == 100
    rest.join()
    time.sleep(0.1)
    (tmp_path / "leases").write_text("".join(lines[:30]))
    assert len(leases.of("lan", 0)) == 30


def test_no_leases():
    assert leases.of("there-is-none", 0) == []

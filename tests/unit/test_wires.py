"""Wires: what is declared, what is refused, who is at which end, and what the ends are told."""

import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from scenario import Host, difference, guest, mac, request, uuid

from vmnet_hooks.cli import main
from vmnet_hooks.declared import compose, configuration
from vmnet_hooks.engine import guests
from vmnet_hooks.errors import ConfigError, InputError, VmnetError
from vmnet_hooks.frontends import qemu
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.model.objects import Address, LinkAttribute, NftChain, NftElement
from vmnet_hooks.model.ruleset import WIRES

PAIR = '[wires.a-b]\nends = ["d1:0", "d2:0"]\n'
LAN = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'


def wired(number: int, nics: int = 1) -> Domain:
    """Domain dN with NICs that no claim names."""
    return Domain(f"d{number}", uuid(number), tuple(Vif(mac(number, i), f"t{number}.{i}", i) for i in range(nics)))


ONE, TWO = wired(1), wired(2)


def host_with(tmp_path, toml: str = PAIR, *domains: Domain) -> Host:
    host = Host(tmp_path, toml)
    for domain in domains or (ONE, TWO):
        host.add_taps(domain)
    return host


def ways(host: Host) -> dict[str, str]:
    """Where what comes in at each end goes, by the names of links; a number is of none that is there."""
    names = {str(link.index): name for name, link in host.kernel.links.items()}
    found = [r for r in host.kernel.world.values() if isinstance(r, NftElement) and r.set in ("wires", "copies")]
    return {f"{r.links[0]}{'' if r.set == 'wires' else ' copy'}": names.get(r.value, r.value.strip('"')) for r in found}


# --- what is declared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a:0", "a:0"),
        ("a:52:54:00:00:00:0B", "a:52:54:00:00:00:0b"),
        ("a:52-54-00-00-00-0b", "a:52:54:00:00:00:0b"),
        ("web server: 1:vnet7", "web server: 1:vnet7"),
        ("link:eth7", "link:eth7"),
        ("a:vif1.0", "a:vif1.0"),
    ],
)
def test_ends(text, shown, load):
    declared = load(f'[wires.w]\nends = ["{text}", "z:3"]\n')
    first, second = declared.networks["w"].mode.ends(declared.networks["w"])
    assert (str(first), str(second)) == (shown, "z:3")


WRONG = {
    "no end": ('ends = ["a:0"]', "must be a list of two ends"),
    "three": ('ends = ["a:0", "b:0", "c:0"]', "must be a list of two ends"),
    "missing": ("mtu = 9000", "wires.w.ends: missing"),
    "no NIC": ('ends = ["a", "b:0"]', "'a' is no end of a wire; write"),
    "no guest": ('ends = [":0", "b:0"]', "':0' is no end of a wire"),
    "same end": ('ends = ["a:0", "a:0"]', "has a:0 at both ends; name another NIC"),
    "same end, other spelling": ('ends = ["a:02:00:00:00:00:0A", "a:02-00-00-00-00-0a"]', "at both ends"),
    "group": ('ends = ["a:01:00:5e:00:00:01", "b:0"]', "multicast"),
    "hostile guest": ('ends = ["a\\n[wires.x]:0", "b:0"]', "names no guest"),
    "hostile NIC": ('ends = ["a:$(reboot)", "b:0"]', "is not an interface's name"),
    "hostile link": ('ends = ["link:a b", "b:0"]', "is not an interface's name"),
    "long guest": (f'ends = ["{"a" * 300}:0", "b:0"]', "names no guest"),
    "large number": ('ends = ["a:123456789012345678", "b:0"]', "no guest has so many NICs"),
    "another host": ('ends = ["a:0@192.0.2.2", "b:0"]', "both ends of a wire are on this host"),
    "MTU": ('ends = ["a:0", "b:0"]\nmtu = 65522', "65521"),
    "unknown key": ('ends = ["a:0", "b:0"]\nend = 1', "did you mean 'ends'?"),
}


@pytest.mark.parametrize(("table", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(table, problem, load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(f"[wires.w]\n{table}\n")
    assert problem in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/vmnet.toml: wires.w")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        (PAIR + '[wires.c]\nends = ["d2:0", "d3:0"]\n', "wires.c.ends: d2:0 is an end of wires.a-b already; name another NIC"),
        (PAIR + LAN.replace("lan]", "a-b]"), "wires.a-b: has the name of networks.a-b; rename one of the two"),
        (
            '[bridges.br9]\nports = ["eth3"]\n[wires.w]\nends = ["link:eth3", "d1:0"]\n',
            "wires.w.ends: eth3 is in use by bridges.br9; a wire needs a link of its own",
        ),
        (
            '[networks.p]\nmode = "hostroute"\nnetdev = "eth3"\n[wires.w]\nends = ["link:eth3", "d1:0"]\n',
            "wires.w.ends: eth3 is in use by networks.p",
        ),
        (
            '[networks.p]\nmode = "hostroute"\nnetdev = "eth1"\nreach = ["a-b"]\n' + PAIR,
            "no network 'a-b' is declared",
        ),
    ],
)
def test_parts_that_contradict_each_other(toml, problem, load):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load(toml)


def test_a_vlan_of_our_own_is_an_end(load):
    load('[vlans."eth3.7"]\nparent = "eth3"\nid = 7\n[wires.w]\nends = ["link:eth3.7", "d1:0"]\n')


# --- which NIC is an end ---------------------------------------------------------------------------------------------


def bound(load, toml: str, domain: Domain, *file_claims: Claim) -> dict[str, str]:
    return {vif.ifname: network.name for vif, network in compose.bind(domain, load(toml), file_claims)}


@pytest.mark.parametrize("end", ["d1:1", f"d1:{mac(1, 1)}", "d1:t1.1"])
def test_a_nic_by_number_mac_and_tap(end, load):
    assert bound(load, f'[wires.w]\nends = ["{end}", "d2:0"]\n', wired(1, 3)) == {"t1.1": "w"}


REFUSED = {
    "no such number": ('["d1:3", "d2:0"]', wired(1), (), "d1 has no NIC 3 (it has: 0 (52:54:00:aa:01:00)); correct it"),
    "no such tap": ('["d1:t9.9", "d2:0"]', wired(1), (), "d1 has no NIC t9.9"),
    "two wires by two spellings": (
        f'["d1:0", "d2:0"]\n[wires.x]\nends = ["d1:{mac(1)}", "d3:0"]',
        wired(1),
        (),
        f"wires.x.ends: d1:{mac(1)} is an end of wires.w already, as d1:0; name another NIC",
    ),
    "a wire and a network": (
        '["d1:0", "d2:0"]',
        wired(1),
        (Claim("lan", mac(1), source="domains.d/d1.toml"),),
        "domains.d/d1.toml: NIC 52:54:00:aa:01:00 of d1 is an end of wires.w; unset the claim, or correct the ends",
    ),
    "claimed for a wire": (
        '["d3:0", "d2:0"]',
        wired(1),
        (Claim("w", mac(1), source="domains.d/d1.toml"),),
        "wires.w is a wire, and this NIC is none of its ends (d3:0, d2:0); unset the claim",
    ),
    "on a bridge": (
        '["d1:0", "d2:0"]',
        replace(wired(1), vifs=(Vif(mac(1), "t1.0", 0, bridge="br0"),)),
        (),
        "NIC 52:54:00:aa:01:00 of d1 is on bridge br0; make it <interface type='ethernet'>",
    ),
    "no tap": (
        '["d1:0", "d2:0"]',
        replace(wired(1), vifs=(Vif(mac(1), "", 0, without_tap="direct"),)),
        (),
        "NIC 0 of d1 is <interface type='direct'>, which has no tap; name another",
    ),
}


@pytest.mark.parametrize(("ends", "domain", "claims", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_a_guest_is_refused(ends, domain, claims, problem, load):
    with pytest.raises(InputError) as caught:
        bound(load, f"[wires.w]\nends = {ends}\n{LAN}", domain, *claims)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_guest_of_a_broken_wire_is_refused_and_others_start(tmp_path):
    (tmp_path / "vmnet.toml").write_text(LAN + PAIR + "mtu = 1\n")
    declared = configuration.survey(str(tmp_path))
    with pytest.raises(ConfigError, match=r"wires\.a-b\.mtu"):
        compose.bind(ONE, declared, ())
    assert compose.bind(wired(3), declared, ()) == []
    assert compose.bind(guest(4, ("lan", ())), declared, ())


def test_the_agent_goes_by_the_wire_as_it_was(tmp_path):
    """Of a table with a mistake, the previous one stands."""
    (tmp_path / "vmnet.toml").write_text(PAIR)
    older = configuration.load(str(tmp_path))
    (tmp_path / "vmnet.toml").write_text(PAIR + "mtu = 1\n")
    declared = configuration.survey(str(tmp_path), older)
    [(vif, network)] = compose.bind(ONE, declared, ())
    assert (vif.ifname, network.name) == ("t1.0", "a-b") and network is older.networks["a-b"]


def test_two_nics_with_one_mac(load):
    twice = replace(wired(1, 2), vifs=tuple(replace(vif, mac=mac(1)) for vif in wired(1, 2).vifs))
    with pytest.raises(InputError, match="d1 has 2 NICs with MAC"):
        bound(load, '[wires.loop]\nends = ["d1:0", "d1:1"]\n', twice)


def test_a_network_and_a_wire_in_one_domain(load):
    domain = wired(1, 2)
    claims = (Claim("lan", mac(1, 1), source="domains.d/d1.toml"),)
    assert bound(load, PAIR + LAN, domain, *claims) == {"t1.0": "a-b", "t1.1": "lan"}


# --- the ends --------------------------------------------------------------------------------------------------------


def test_both_ends_follow(tmp_path):
    """The second one that comes completes the wire; one that has gone and comes back has another number."""
    host = host_with(tmp_path)
    host.plug(ONE)
    assert ways(host) == {} and host.check() == []
    host.plug(TWO)
    assert ways(host) == {"t1.0": "t2.0", "t2.0": "t1.0"} and host.check() == []
    for domain, left in ((ONE, TWO), (TWO, ONE)):
        host.unplug(domain)
        assert ways(host) == {} and host.check() == []
        assert NftChain.at_wire(left.vifs[0].ifname, "").key in host.kernel.world, "what it sends is dropped"
        host.remove_taps(domain)
        host.add_taps(domain)
        host.plug(domain)
        assert ways(host) == {"t1.0": "t2.0", "t2.0": "t1.0"} and host.check() == []


def test_a_tap_that_has_gone_is_no_end(tmp_path):
    """Its QEMU was killed: no hook has come. `check` tells; the next plug of either, and `repair`, set that right."""
    host = host_with(tmp_path)
    host.plug(ONE)
    host.plug(TWO)
    host.remove_taps(TWO)
    assert {drift.kind for drift in host.check()} == {"gone", "unwanted"}
    host.repair()
    assert ways(host) == {} and host.check() == []
    host.add_taps(TWO)
    host.plug(TWO)
    host.remove_taps(ONE)
    host.add_taps(ONE)
    host.plug(ONE)
    assert ways(host) == {"t1.0": "t2.0", "t2.0": "t1.0"} and host.check() == []


def test_an_end_that_is_given_to_a_network(tmp_path):
    """What the other end sends must not get into the network, even if no wire is declared any more."""
    host = host_with(tmp_path)
    host.plug(ONE)
    host.plug(TWO)
    host.configure(LAN)
    host.plug(replace(guest(1, ("lan", ())), name="d1"))
    assert "t2.0" not in ways(host)
    assert host.kernel.world[NftChain.at_wire("t2.0", "").key] == NftChain.at_wire("t2.0", "wired")


def test_two_links_of_one_nic(tmp_path):
    """A guest of Xen with an emulated NIC gets each frame by both, and sends by either."""
    host = host_with(tmp_path, '[wires.w]\nends = ["d1:0", "d2:0"]\n')
    [vif] = ONE.vifs
    whole = replace(vif, ifname="vif1.0", id="0", twin="0-emu")
    emulated = replace(whole, ifname="vif1.0-emu", id="0-emu", twin="0")
    host.plug(TWO)
    for half in (whole, emulated):
        host.kernel.add_link(half.ifname, "vif")
        host.plug(replace(ONE, vifs=(half,), partial=True))
    assert ways(host) == {"vif1.0": "t2.0", "vif1.0-emu": "t2.0", "t2.0": "vif1.0", "t2.0 copy": "vif1.0-emu"}
    assert host.check() == []
    # Its drivers have taken over.
    host.kernel.remove_link("vif1.0-emu")
    host.unplug(ONE, "vif1.0-emu")
    assert ways(host) == {"vif1.0": "t2.0", "t2.0": "vif1.0"} and host.check() == []
    host.kernel.add_link("vif1.0-emu", "vif")
    host.plug(replace(ONE, vifs=(emulated,), partial=True))
    host.kernel.remove_link("vif1.0")
    host.unplug(ONE, "vif1.0")
    assert ways(host) == {"vif1.0-emu": "t2.0", "t2.0": "vif1.0-emu"} and host.check() == []


def test_a_guest_with_both_ends(tmp_path):
    host = host_with(tmp_path, '[wires.loop]\nends = ["d1:0", "d1:1"]\n', wired(1, 2))
    host.plug(wired(1, 2))
    assert ways(host) == {"t1.0": "t1.1", "t1.1": "t1.0"} and host.check() == []
    host.unplug(wired(1, 2), "t1.1")
    assert ways(host) == {}


def test_a_link_of_the_host(tmp_path):
    """It is an end with or without its guest; without `up`, only with it."""
    toml = '[wires.out]\nends = ["d1:0", "link:eth3"]\n'
    host = host_with(tmp_path, toml)
    before = host.everything()
    host.plug(ONE)
    assert ways(host) == {"t1.0": "eth3", "eth3": "t1.0"} and host.check() == []
    assert host.kernel.world[LinkAttribute.key_of("eth3", "promisc")] == LinkAttribute("eth3", "promisc", "on")
    host.up("out")
    host.unplug(ONE)
    assert ways(host) == {} and host.check() == []
    assert NftChain.at_wire("eth3", "").key in host.kernel.world, "what arrives is dropped"
    host.plug(ONE)
    assert ways(host) == {"t1.0": "eth3", "eth3": "t1.0"}
    host.unplug(ONE)
    host.down("out")
    assert not difference(before[0], host.kernel.snapshot())


def test_two_links_of_the_host(tmp_path):
    host = host_with(tmp_path, '[wires.through]\nends = ["link:eth2", "link:eth3"]\n')
    assert [drift.kind for drift in host.check()] == ["not-up"]
    host.up()
    assert ways(host) == {"eth2": "eth3", "eth3": "eth2"} and host.check() == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda host: host.kernel.put(Address("eth3", "192.0.2.1/24")), "wires.out.ends: eth3 has address 192.0.2.1/24"),
        (lambda host: host.kernel.put(LinkAttribute("eth3", "master", "br0")), "wires.out.ends: eth3 is a port of br0"),
        (lambda host: host.kernel.remove_link("eth3"), "wires.out.ends: eth3 does not exist"),
        (lambda host: host.kernel.put(LinkAttribute("t1.0", "master", "br0")), "tap t1.0 is a port of br0"),
    ],
)
def test_a_link_that_is_in_use(change, problem, tmp_path):
    host = host_with(tmp_path, '[wires.out]\nends = ["d1:0", "link:eth3"]\n')
    change(host)
    for name in ("eth3", "t1.0"):
        if (master := host.kernel.world.get(f"link {name} master")) and name in host.kernel.links:
            host.kernel.links[name] = replace(host.kernel.links[name], master=master.value)
    with pytest.raises(VmnetError) as caught:
        host.plug(ONE)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_up_of_a_wire_between_guests(tmp_path):
    host = host_with(tmp_path)
    with pytest.raises(ConfigError, match=r"wires\.a-b: is between guests, and comes up with them"):
        host.up("a-b")
    assert host.up() == []


def test_records_that_were_lost(tmp_path):
    """The guests run: their chains stay, and `start` takes them over."""
    host = host_with(tmp_path)
    host.plug(ONE)
    host.plug(TWO)
    world = host.kernel.snapshot()
    host.close()
    (tmp_path / "run" / "state.db").unlink()
    assert {drift.what.partition(":")[0] for drift in host.check()} == {"t1.0", "t2.0"}
    host.repair()
    assert not {key for key in difference(world, host.kernel.snapshot()) if key.startswith("nft")}
    host.plug(ONE)
    host.plug(TWO)
    assert ways(host) == {"t1.0": "t2.0", "t2.0": "t1.0"} and host.check() == []


def test_a_table_without_a_link_of_its_own():
    """No link's table can have its name, and it has elements as other tables do."""
    assert len(WIRES.name.removeprefix("vmnet-")) > 15 and not WIRES.of_link


# --- plain QEMU ------------------------------------------------------------------------------------------------------


def test_a_tap_of_plain_qemu(tmp_path, monkeypatch):
    """It tells no MAC, and none is needed."""
    host = Host(tmp_path, '[wires.q]\nends = ["one:tap0", "two:tap1"]\n')
    (tmp_path / "etc/domains.d").mkdir()
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path / "etc"))
    for tap in ("tap0", "tap1"):
        host.kernel.add_link(tap, "tun")
        event = qemu.parse(request(["hooks/qemu/ifup", tap]))
        assert event.domain.name == ("one" if tap == "tap0" else "two")
        host.plug(event.domain)
    assert ways(host) == {"tap0": "tap1", "tap1": "tap0"} and host.check() == []
    host.call(guests.unplug, Domain(""), "tap0")
    assert ways(host) == {} and host.check() == []
    with pytest.raises(ConfigError, match="no file claims ifname 'tap7'"):
        qemu.parse(request(["hooks/qemu/ifup", "tap7"]))


def test_set_names_the_file_instead(tmp_path, monkeypatch):
    """A wire's ends are declared once, in its section."""
    (tmp_path / "vmnet.toml").write_text(PAIR)
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path))
    done = CliRunner().invoke(main, ["set", "d1", mac(1), "--network", "a-b"])
    assert done.exit_code == 2 and f"wires.a-b is a wire, and its ends are in {tmp_path}/vmnet.toml" in done.output


def test_validate_tells_what_domains_d_claims_too(tmp_path):
    (tmp_path / "vmnet.toml").write_text(LAN + PAIR.replace("d1:0", f"d1:{mac(1)}"))
    (tmp_path / "domains.d").mkdir()
    (tmp_path / "domains.d/d1.toml").write_text(f'[[interfaces]]\nmac = "{mac(1)}"\nnetwork = "lan"\n')
    done = CliRunner().invoke(main, ["validate", "--config-dir", str(tmp_path)])
    assert done.exit_code == 2 and f"NIC {mac(1)} of d1 is an end of wires.a-b; unset the claim" in done.output
    (tmp_path / "domains.d/d1.toml").unlink()
    done = CliRunner().invoke(main, ["validate", "--config-dir", str(tmp_path)])
    assert done.output == "ok: 1 networks, 1 wires, 0 domains\n"

"""libvirt's qemu hook: argv and XML become an event."""
# ruff: noqa: E501  (tables of inputs and messages)

import pytest
from scenario import request

from vmnet_hooks.errors import InputError
from vmnet_hooks.frontends import hooks, libvirt, of
from vmnet_hooks.model.guest import Action, Claim

UUID = "0a1b2c3d-0000-4000-8000-000000000001"
XML = f"""<domain type='kvm' id='3'>
  <name>dom1</name><uuid>{UUID.upper()}</uuid>
  <metadata>
    <other:app xmlns:other='urn:other'><anything/></other:app>
    <vmnet:domain xmlns:vmnet='urn:vmnet-hooks:domain:1'>
      <!-- a comment -->
      <vmnet:interface mac='52:54:00:AA:00:10' network='public'>
        <vmnet:ip address='192.0.2.10'/><vmnet:ip address='2001:DB8::10'/>
      </vmnet:interface>
      <vmnet:interface mac='52:54:00:aa:00:11' network='lan' filter='no'/>
    </vmnet:domain>
  </metadata>
  <devices>
    <disk type='file'><target dev='vda'/></disk>
    <interface type='ethernet'><mac address='52:54:00:AA:00:10'/><target dev='tap0' managed='no'/></interface>
    <interface type='bridge'><mac address='52:54:00:aa:00:11'/><source bridge='br0'/><target dev='vnet1'/></interface>
    <interface type='network'><mac address='52:54:00:aa:00:12'/><source network='default' bridge='virbr0'/><target dev='vnet2'/></interface>
    <interface type='direct'><mac address='52:54:00:aa:00:13'/><source dev='eth0'/><target dev='macvtap0'/></interface>
    <interface type='ethernet'/>
  </devices>
</domain>""".encode()


def parse(operation: str, data: bytes = XML, name: str = "dom1"):
    return libvirt.parse(request(["/x/hooks/libvirt/qemu", name, operation, "begin", "-"], data))


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("start", Action.PLUG),
        ("started", Action.ACTIVATE),
        ("stopped", Action.UNPLUG),
        ("release", Action.UNPLUG),
        ("reconnect", Action.RECONNECT),
        ("migrate", Action.INCOMING),
    ],
)
def test_operations(operation, action):
    event = parse(operation)
    assert event.action is action
    assert (event.frontend, event.ifname, event.warning, event.announce) == ("libvirt", "", "", False)
    assert event.domain.name == "dom1" and event.domain.uuid == UUID and event.domain.id == UUID
    assert operation in hooks()["libvirt/qemu"].operations


def test_every_operation_of_the_registry_has_an_action():
    assert set(hooks()["libvirt/qemu"].operations) == set(libvirt._ACTIONS)


@pytest.mark.parametrize("kind", ["direct", "hostdev", "vdpa", "vhostuser", "user", "mcast", "udp", "null"])
def test_interfaces_without_a_tap(kind):
    data = XML.replace(b"<interface type='ethernet'><mac", f"<interface type='{kind}'><mac".encode())
    first, second, *_ = parse("start", data).domain.vifs
    assert (first.without_tap, first.ifname, first.device) == (kind, "", "tap0")
    assert (second.without_tap, second.device) == ("", "")


def test_nics():
    vifs = parse("start").domain.vifs
    assert [(v.mac[-2:], v.ifname, v.bridge, v.index) for v in vifs] == [
        ("10", "tap0", "", 0),
        ("11", "vnet1", "br0", 1),
        ("12", "vnet2", "virbr0", 2),
        # A macvtap device is no tap of ours.
        ("13", "", "", 3),
        ("", "", "", 4),
    ]


def test_metadata():
    where = "dom1: XML: metadata: interface "
    assert parse("start").domain.claims == (
        Claim("public", "52:54:00:aa:00:10", "", ("192.0.2.10", "2001:db8::10"), True, where + "52:54:00:AA:00:10"),
        Claim("lan", "52:54:00:aa:00:11", "", (), False, where + "52:54:00:aa:00:11"),
    )


def test_release_has_no_target():
    data = XML.replace(b"<target dev='tap0' managed='no'/>", b"")
    assert parse("release", data).domain.vifs[0].ifname == ""


def test_clean_up_goes_by_name_if_the_xml_is_broken():
    for operation in ("stopped", "release"):
        event = parse(operation, b"<domain")
        assert event.action is Action.UNPLUG and event.domain.name == "dom1" and not event.domain.uuid
        assert "not XML" in event.warning and event.warning.endswith("cleaned up by name")
    with pytest.raises(InputError, match="dom1: XML: not XML"):
        parse("start", b"<domain")


def metadata(inner: str) -> bytes:
    return (
        f"<domain><name>d</name><metadata><v:domain xmlns:v='{libvirt.NAMESPACE}'>{inner}</v:domain></metadata></domain>".encode()
    )


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("<v:nic/>", "metadata: unknown element {urn:vmnet-hooks:domain:1}nic; only <vmnet:interface> goes there"),
        ("<interface/>", "metadata: unknown element interface; only <vmnet:interface>"),
        ("<v:interface/>", r"interface \(no mac\): mac or network is not a MAC address"),
        ("<v:interface mac='52:54:00:aa:00:10'/>", "interface 52:54:00:aa:00:10: mac or network is not a name"),
        ("<v:interface mac='01:00:5e:00:00:01' network='a'/>", "is a multicast MAC address"),
        (
            "<v:interface mac='52:54:00:aa:00:10' network='a' vlans='3'/>",
            "unknown attribute 'vlans'; known: mac, network, filter, vlan, tagged, roles",
        ),
        *(
            (f"<v:interface mac='52:54:00:aa:00:10' network='a' {key}='{value}'/>", f"vlan or tagged {message}")
            for key, value, message in (
                ("vlan", "0", "must be a whole number from 1 to 4094"),
                ("vlan", "4095", "must be a whole number"),
                ("vlan", "10-20", "must be a whole number"),
                ("vlan", "", "must be a whole number"),
                ("vlan", "9" * 5000, ""),
                ("tagged", "x", "holds 'x', which is no VLAN ID"),
                ("tagged", "0", "holds '0'; VLAN IDs go from 1 to 4094"),
                ("tagged", "30-20", "holds '30-20'; VLAN IDs go"),
                ("tagged", "10,20-", "holds '20-', which is no VLAN ID"),
                ("tagged", "10 20", "holds '10 20', which is no VLAN ID"),
            )
        ),
        (
            "<v:interface mac='52:54:00:aa:00:10' network='a' roles='router,relay'/>",
            "roles holds 'relay', which must be one of",
        ),
        ("<v:interface mac='52:54:00:aa:00:10' network='a' filter='off'/>", "filter is 'off'; use yes or no"),
        ("<v:interface mac='52:54:00:aa:00:10' network='a'><v:ip/></v:interface>", "ip '' is neither an address nor a subnet"),
        (
            "<v:interface mac='52:54:00:aa:00:10' network='a'><v:ip address='192.0.2.1/24'/></v:interface>",
            "ip '192.0.2.1/24' is neither an address nor a subnet .192.0.2.1/24 has host bits set",
        ),
        (
            "<v:interface mac='52:54:00:aa:00:10' network='a'><v:ip address='192.0.2.1' dev='x'/></v:interface>",
            "unknown attribute 'dev'",
        ),
        (
            "<v:interface mac='52:54:00:aa:00:10' network='a'><v:route/></v:interface>",
            "unknown element .*route; only <vmnet:ip>",
        ),
    ],
)
def test_wrong_metadata(inner, message):
    with pytest.raises(InputError, match=message):
        libvirt.parse_domain(metadata(inner), "d: XML")


def test_vlans():
    def claimed(attributes: str):
        [claim] = libvirt.parse_domain(
            metadata(f"<v:interface mac='52:54:00:aa:00:10' network='a' {attributes}/>"), "d: XML"
        ).claims
        return claim.vlan, claim.tagged

    assert claimed("") == (None, None), "the network's hold"
    assert claimed("vlan='10'") == (10, None)
    assert claimed("tagged='30-32,20'") == (None, (20, 30, 31, 32))
    assert claimed("vlan='10' tagged=''") == (10, ())


@pytest.mark.parametrize(
    ("attribute", "roles"),
    [("", None), ("roles=''", ()), ("roles='querier,router,querier'", ("router", "querier"))],
)
def test_roles(attribute, roles):
    text = metadata(f"<v:interface mac='52:54:00:aa:00:10' network='a' {attribute}/>")
    assert libvirt.parse_domain(text, "d: XML").claims[0].roles == roles


def test_a_domain_without_anything():
    domain = libvirt.parse_domain(b"<domain><name>d</name></domain>", "x")
    assert domain.vifs == () and domain.claims == () and domain.uuid == "" and domain.id == "name:d"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/vmnet-hooks/hooks/libvirt/qemu", "libvirt/qemu"),
        ("/etc/libvirt/hooks/qemu", "libvirt/qemu"),
        ("/etc/libvirt/hooks/qemu.d/vmnet-hooks", "libvirt/qemu"),
        ("/usr/lib/vmnet-hooks/hooks/qemu/ifup", "qemu/ifup"),
        ("/usr/lib/vmnet-hooks/hooks/qemu/ifdown", "qemu/ifdown"),
        ("/usr/lib/vmnet-hooks/hooks/run", ""),
        ("/etc/libvirt/hooks/network", ""),
        ("ifup", ""),
    ],
)
def test_which_front_end(path, name):
    assert of(path) == name

"""Every rule of the configuration, with the message that it gives: file, key, value, remedy."""
# ruff: noqa: E501  (tables of inputs and messages)

import pytest

from vmnet_hooks.declared import SECTIONS, configuration
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.model import declaration
from vmnet_hooks.model.declaration import Declared, Network, Option, Required
from vmnet_hooks.networks import MODES

V4 = 'ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }'
V6 = 'ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }'


def routed(*lines: str, name: str = "public", uplink: str = "eth1", table: object = 222) -> str:
    head = [f"[networks.{name}]", 'mode = "routed"', f'uplink = "{uplink}"', f"table = {table}"]
    return "\n".join([*head, *(lines or (V4,))]) + "\n"


def bridged(*lines: str, name: str = "lan", bridge: str = "br0") -> str:
    return "\n".join([f"[networks.{name}]", 'mode = "bridged"', f'bridge = "{bridge}"', *lines]) + "\n"


def load(path, *texts: str) -> declaration.Config:
    path.joinpath("conf.d").mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        path.joinpath(*(["vmnet.toml"] if not number else ["conf.d", f"{number}.toml"])).write_text(text)
    return configuration.load(str(path))


def side(**keys: str) -> str:
    return "ipv4 = { " + ", ".join(f'{k} = "{v}"' for k, v in keys.items()) + " }"


RULES = [
    # unknown keys, with the nearest known one
    (routed(V4, 'uplnk = "eth0"'), "networks.public: unknown key 'uplnk'; did you mean 'uplink'?"),
    (routed(V4, "zzz = 1"), "networks.public: unknown key 'zzz'; known: mode, uplink, table, table_name, role,"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_sorce="192.0.2.254")),
     "networks.public.ipv4: unknown key 'arp_sorce'; did you mean 'arp_source'?"),
    (bridged("isolate = true"), "networks.lan: unknown key 'isolate'; did you mean 'isolated'?"),
    ("[network.a]\n", "unknown key 'network'; did you mean 'networks'?"),
    # missing keys and wrong types
    ('[networks.a]\nmode = "routed"\n', "networks.a.uplink: missing; give the interface that leads to the gateway"),
    ('[networks.a]\nmode = "bridged"\n', "networks.a.bridge: missing; give the bridge that guests join"),
    ("[networks.a]\n", "networks.a.mode: missing; use one of routed, bridged"),
    ('[networks.a]\nmode = "route"\n', "networks.a.mode: 'route' is not a mode; use one of routed, bridged"),
    (routed(V4, table='"222"'), "networks.public.table: '222' must be a whole number from 1 to 2147483647"),
    (routed(V4, table="true"), "networks.public.table: True must be a whole number"),
    (routed("ipv4 = 3"), "networks.public.ipv4: must be a table, is 3"),
    (routed(V4, 'role = "gateway"'), "networks.public.role: 'gateway' must be one of host, router, router+host"),
    (routed(V4, "permanent_neighbours = 1"), "networks.public.permanent_neighbours: 1 must be true or false"),
    (routed(V4, "rule_priority = 32766"), "networks.public.rule_priority: 32766 must be a whole number from 1 to 32763"),
    (routed(V4, "mtu = 1279"), "networks.public.mtu: 1279 must be a whole number from 1280 to 65535"),
    (routed('table_name = "a b"', V4), "networks.public.table_name: 'a b' is not a name"),
    ("networks = 1\n", "networks: must be tables, [networks.NAME]"),
    ("[networks]\na = 1\n", "networks.a: must be a table, is 1"),
    ('[networks."a b"]\nmode = "bridged"\nbridge = "br0"\n', "networks.a b: is not a name"),
    # IFNAMSIZ
    (routed(V4, uplink="a234567890123456"), "networks.public.uplink: 'a234567890123456' is longer than an interface's name may be; use at most 15"),
    (bridged(bridge="b234567890123456"), "networks.lan.bridge: 'b234567890123456' is longer than"),
    (routed(V4, uplink="eth 0"), "networks.public.uplink: 'eth 0' is not an interface's name; use letters"),
    # MACs
    (routed(V4, 'tap_mac = "fe:ff"'), "networks.public.tap_mac: 'fe:ff' is not a MAC address; write it as 52:54:00:12:34:56"),
    (routed(V4, 'tap_mac = "ff:ff:ff:ff:ff:ff"'), "networks.public.tap_mac: 'ff:ff:ff:ff:ff:ff' is a multicast MAC address"),
    # subnet, gateway, arp_source
    (routed('role = "host"'), "networks.public: has neither ipv4 nor ipv6; add ipv4 ="),
    (routed(side(subnet="192.0.2.0/24", gateway="198.51.100.1", arp_source="192.0.2.254")),
     "networks.public.ipv4.gateway: 198.51.100.1 is not in subnet 192.0.2.0/24; choose a host address"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_source="198.51.100.254")),
     "networks.public.ipv4.arp_source: 198.51.100.254 is not in subnet 192.0.2.0/24"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_source="192.0.2.1")),
     "networks.public.ipv4.arp_source: 192.0.2.1 is the gateway; choose an unused address of the subnet"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1")), "networks.public.ipv4.arp_source: missing; role host needs an unused address"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.0", arp_source="192.0.2.254")),
     "networks.public.ipv4.gateway: 192.0.2.0 is the network address of 192.0.2.0/24"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_source="192.0.2.255")),
     "networks.public.ipv4.arp_source: 192.0.2.255 is the broadcast address of 192.0.2.0/24"),
    (routed(side(subnet="224.0.0.0/24", gateway="224.0.0.1", arp_source="224.0.0.2")), "networks.public.ipv4.gateway: 224.0.0.1 is not a unicast"),
    (routed(side(subnet="192.0.2.1/24", gateway="192.0.2.1", arp_source="192.0.2.254")),
     "networks.public.ipv4.subnet: '192.0.2.1/24' is not a subnet (192.0.2.1/24 has host bits set); write 192.0.2.0/24"),
    (routed(side(subnet="2001:db8::/64", gateway="192.0.2.1", arp_source="192.0.2.254")), "networks.public.ipv4.subnet: '2001:db8::/64' is not an IPv4"),
    (routed(side(subnet="192.0.2.0/24", gateway="2001:db8::1", arp_source="192.0.2.254")), "networks.public.ipv4.gateway: '2001:db8::1' is not an IPv4"),
    (routed('ipv6 = { subnet = "2001:db8::/64", gateway = "fe80::1" }'), "networks.public.ipv6.gateway: fe80::1 is not in subnet 2001:db8::/64"),
    (routed('ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::" }'), "networks.public.ipv6.gateway: 2001:db8:: is the network address"),
    # tables
    (routed(V4, table=254), "networks.public.table: 254 is one of the kernel's own"),
    (routed(V4) + routed(V6, name="b"), "networks.b.table: 222 is already the table of networks.public; choose another"),
    (routed(V4, 'table_name = "t"') + routed(V6, 'table_name = "t"', name="b", table=3), "networks.b.table_name: t is already that of networks.public"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_source="192.0.2.254")[:-2] + ', prefixes = ["192.0.2.7/32"] }'),
     "networks.public.ipv4.prefixes: 192.0.2.7/32 overlaps 192.0.2.0/24; name each address once"),
    (routed(side(subnet="192.0.2.0/24", gateway="192.0.2.1", arp_source="192.0.2.254")[:-2] + ', prefixes = ["0.0.0.0/0"] }'),
     "networks.public.ipv4.prefixes: ['0.0.0.0/0'] holds every address there is; write the guests' own prefixes"),
    # overlap
    (routed(V4) + routed(side(subnet="192.0.2.128/25", gateway="192.0.2.129", arp_source="192.0.2.200"), name="b", table=3, uplink="eth2"),
     "networks.b.ipv4.subnet: 192.0.2.128/25 overlaps 192.0.2.0/24 of networks.public; separate them"),
    (routed(V6) + routed('ipv6 = { subnet = "2001:db8::/32", gateway = "2001:db8::9" }', name="b", table=3),
     "networks.b.ipv6.subnet: 2001:db8::/32 overlaps 2001:db8::/64 of networks.public"),
    (routed(V4) + routed(side(subnet="198.51.100.0/24", gateway="198.51.100.1", arp_source="192.0.2.253"), name="b", table=3),
     "networks.b.ipv4.arp_source: 192.0.2.253 is not in subnet 198.51.100.0/24; choose a host address of the subnet"),
    (routed(V4) + routed(side(subnet="198.51.100.0/24", gateway="198.51.100.1", arp_source="192.0.2.254"), name="b", table=3, uplink="eth2"),
     "networks.b.ipv4.arp_source: 192.0.2.254 is not in subnet 198.51.100.0/24; choose a host address of the subnet"),
    (bridged() + bridged(name="b"), "networks.b.bridge: br0 is already the bridge of networks.lan; use one of them"),
    # roles
    (routed(V4, 'masquerade = "eth9"'), "networks.public.masquerade: eth9 is of no use with role host; set role to router"),
    (routed(V4, 'role = "router"', 'masquerade = "eth1"'), "networks.public.masquerade: eth1 is the uplink itself"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), RULES, ids=[message[:60] for _, message in RULES])
def test_rule(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/vmnet.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_is_an_empty_configuration(tmp_path):
    assert not configuration.load(str(tmp_path / "nowhere")).networks


def test_everything(tmp_path):
    declared = load(tmp_path, routed(V4, V6, 'table_name = "snf_routed"', uplink="eth0.222"), bridged("isolated = true"))
    assert list(declared.networks) == ["public", "lan"]
    public, lan = declared.networks.values()
    assert public["uplink"] == "eth0.222" and public["role"] == "host" and public["permanent_neighbours"] is True
    assert public["tap_mac"] == "fe:ff:ff:ff:ff:ff" and public["rule_priority"] == 22000
    assert str(public["ipv4"]["subnet"]) == "192.0.2.0/24" and str(public["ipv6"]["gateway"]) == "2001:db8::1"
    assert lan["isolated"] is True and lan["mtu"] is None
    assert (public.source, lan.source) == (f"{tmp_path}/vmnet.toml", f"{tmp_path}/conf.d/1.toml")


def test_conf_d_is_read_in_order_and_names_both_files(tmp_path):
    with pytest.raises(ConfigError, match=r"conf.d/1.toml: networks.lan: already declared in .*/vmnet.toml; remove one"):
        load(tmp_path, bridged(), bridged())


def test_rules_across_files_name_the_later(tmp_path):
    with pytest.raises(ConfigError, match=r"^.*/conf.d/1.toml: networks.b.table: 222 is already the table of networks.public"):
        load(tmp_path, routed(V4), routed(V6, name="b"))


def test_only_toml_files_of_conf_d_are_read(tmp_path):
    (tmp_path / "conf.d").mkdir()
    for name in ("a.toml.bak", ".hidden.toml", "README"):
        (tmp_path / "conf.d" / name).write_text("rubbish")
    assert not load(tmp_path, "").networks


def test_tiny_subnets_have_no_broadcast(tmp_path):
    load(tmp_path, routed(side(subnet="192.0.2.0/31", gateway="192.0.2.0", arp_source="192.0.2.1")))


def test_an_empty_tap_mac_keeps_the_taps_own(tmp_path):
    assert load(tmp_path, routed(V4, 'tap_mac = ""')).networks["public"]["tap_mac"] == ""


def test_an_unknown_network_names_the_nearest(tmp_path):
    declared = load(tmp_path, routed(V4), bridged())
    with pytest.raises(ConfigError, match="here: no network 'publik' is declared; did you mean 'public'?"):
        declared.network("publik", "here")


# --- domains.d -------------------------------------------------------------------------------------------------------


def claims(path, text: str, domain: str = "dom1"):
    (path / "domains.d").mkdir(exist_ok=True)
    (path / "domains.d" / f"{domain}.toml").write_text(text)
    return configuration.claims(declaration.Config({}, str(path)), domain)


def test_claims(tmp_path):
    found = claims(tmp_path, '[[interfaces]]\nmac = "52:54:00:AA:00:10"\nnetwork = "public"\nips = ["192.0.2.10", "2001:DB8::10"]\n'
                             '[[interfaces]]\nifname = "tap1"\nnetwork = "lan"\nfilter = false\n')  # fmt: skip
    first, second = found
    assert (first.mac, first.network, first.addresses, first.filter) == (
        "52:54:00:aa:00:10",
        "public",
        ("192.0.2.10", "2001:db8::10"),
        True,
    )
    assert first.source == f"{tmp_path}/domains.d/dom1.toml: interfaces[1]"
    assert (second.ifname, second.mac, second.addresses, second.filter) == ("tap1", "", (), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[interface]]\nmac = "x"', "unknown key 'interface'; did you mean 'interfaces'?"),
        ('[interfaces]\nmac = "x"', "interfaces: must be a list of tables, [[interfaces]]"),
        ('[[interfaces]]\nnetwork = "a"', "interfaces[1]: names neither a mac nor an ifname; add one"),
        ('[[interfaces]]\nmac = "52:54:00:aa:00:10"', "interfaces[1].network: missing; give the network"),
        (
            '[[interfaces]]\nnetwork = "a"\nmac = "01:00:5e:00:00:01"',
            "interfaces[1].mac: '01:00:5e:00:00:01' is a multicast MAC",
        ),
        (
            '[[interfaces]]\nnetwork = "a"\nifname = "a234567890123456"',
            "interfaces[1].ifname: 'a234567890123456' is longer",
        ),
        (
            '[[interfaces]]\nnetwork = "a"\nifname = "t"\nips = "192.0.2.1"',
            "interfaces[1].ips: '192.0.2.1' must be a list of addresses",
        ),
        (
            '[[interfaces]]\nnetwork = "a"\nifname = "t"\nips = ["192.0.2.1/24"]',
            "is neither an address nor a subnet (192.0.2.1/24 has host bits set)",
        ),
        ('[[interfaces]]\nnetwork = "a"\nifname = "t"\nip = ["192.0.2.1"]', "unknown key 'ip'; did you mean 'ips'?"),
    ],
)
def test_wrong_claims(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        claims(tmp_path, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/domains.d/dom1.toml: ")


def test_a_tap_of_two_domains(tmp_path):
    for name in ("a", "b"):
        claims(tmp_path, '[[interfaces]]\nifname = "tap0"\nmac = "52:54:00:aa:00:10"\nnetwork = "lan"\n', name)
    with pytest.raises(
        ConfigError,
        match=r"b.toml: interfaces\[1\]: ifname tap0 is also claimed in .*a.toml: interfaces\[1\]; remove one",
    ):
        configuration.claims_by_tap(declaration.Config({}, str(tmp_path)), "tap0")


@pytest.mark.parametrize("name", ["../secret", "/etc/x", ".secret", "a\0b", "", "a" * 300, "a/b"])
def test_a_domains_name_is_no_path(name, tmp_path):
    (tmp_path / "domains.d").mkdir()
    (tmp_path / "secret.toml").write_text("rubbish")
    assert configuration.claims(declaration.Config({}, str(tmp_path)), name) == []


# --- rows ------------------------------------------------------------------------------------------------------------


def test_every_option_has_words():
    def rows(options):
        for row in options:
            yield row
            yield from rows(row.keys)

    for mode in MODES.values():
        for row in rows(mode.options):
            assert row.doc and not row.doc.endswith("."), row.name
            assert row.required == (row.default is Required)


def test_option_rows_are_data():
    row = Option("a", str, Required, "say a")
    with pytest.raises(ConfigError, match="f: n.a: missing; give say a"):
        declaration.parse_options((row,), {}, "f: n")
    with pytest.raises(ConfigError, match="f: n: must be a table, is 3"):
        declaration.parse_options((row,), 3, "f: n")
    assert str(Network(SECTIONS["networks"], "n", {}, "f", MODES["routed"]).error("a", "is bad")) == "f: networks.n.a: is bad"
    assert str(Declared(SECTIONS["vlans"], "eth1.100", {}, "f").error("id", "is bad")) == 'f: vlans."eth1.100".id: is bad'

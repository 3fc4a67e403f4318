"""The kernel edge without a kernel: errors that name the step, the forwarding gate, what nft prints."""

import errno
from pathlib import Path

import pytest

from vmnet_hooks.errors import KernelError
from vmnet_hooks.kernel import linux
from vmnet_hooks.kernel.netlink import NetlinkError, View
from vmnet_hooks.kernel.objects import adoption, device, names, nft, sysctl
from vmnet_hooks.links import bond, vlan
from vmnet_hooks.model.objects import FORWARDING_GATE, HostName, LinkAttribute, NftElement, NftTable, Route, Sysctl, TableName
from vmnet_hooks.model.plan import Change


class Refusing:
    """A netlink socket, or an nft context, that says no to everything."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str):
        def no(*args, **kw):
            raise self.error

        return no


def kernel(error: Exception) -> linux.Kernel:
    made = object.__new__(linux.Kernel)
    made.netlink = made.nft = Refusing(error)
    return made


ELEMENTS = [NftElement("arp", "own", ('"tap0"', f"192.0.2.{n}")) for n in (1, 2)]


@pytest.mark.parametrize(
    ("step", "label"),
    [
        ([Change(None, Route(222, "192.0.2.10/32", "tap0"))], "ip route add 192.0.2.10/32 dev tap0 table 222 proto 86"),
        ([Change(LinkAttribute("t", "mtu", "1"), LinkAttribute("t", "mtu", "2"))], "ip link set dev t mtu 2"),
        ([Change(ELEMENTS[0], None)], """nft 'delete element arp vmnet own { "tap0" . 192.0.2.1 }'"""),
        ([Change(None, NftTable("arp", "x", ()))], "nft -f - <<'EOF'"),
        (
            [Change(None, e) for e in ELEMENTS],
            'nft transaction of 2 changes on nft arp own "tap0" . 192.0.2.1',
        ),
    ],
)
def test_the_error_names_the_step(step, label):
    for error, reason in (
        (NetlinkError(errno.EINVAL), "Invalid argument"),
        (OSError(errno.ENODEV, "tap0 does not exist (any more)"), "tap0 does not exist (any more)"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "Operation not permitted; run as root"),
        (KernelError("Could not process rule"), "Could not process rule"),
    ):
        with pytest.raises(KernelError) as caught:
            kernel(error).apply(step)
        assert str(caught.value).startswith(label) and reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_sysctl_that_is_not_there(fs):
    Path("/proc/sys/net/ipv4/conf/all").mkdir(parents=True)
    value = Sysctl("net/ipv4/conf/tap0/forwarding", "1")
    assert sysctl.read(value.path) is None
    with pytest.raises(KernelError, match="^sysctl -qw net/ipv4/conf/tap0/forwarding=1: no such setting; is the link gone"):
        kernel(OSError()).apply([Change(None, value)])


def test_a_table_name_comes_and_goes(fs):
    name, edge = TableName(222, "snf_routed"), kernel(OSError())
    edge.apply([Change(None, name)])
    assert Path("/etc/iproute2/rt_tables.d/vmnet-snf_routed.conf").read_text() == "222 snf_routed\n"
    edge.apply([Change(name, None)])
    edge.apply([Change(name, None)])
    assert not list(Path("/etc/iproute2/rt_tables.d").iterdir())


@pytest.fixture
def folders(fs):
    """rt_tables.d and vmnet-hosts, with files of an admin in the first."""
    tables, hosts = Path("/etc/iproute2/rt_tables.d"), Path("/run/vmnet-hosts")
    tables.mkdir(parents=True)
    for name, text in THEIRS.items():
        (tables / name).write_text(text)
    (tables / "vmnet-folder.conf").mkdir()
    return tables, hosts


THEIRS = {
    "admin.conf": "333 admin\n",
    "vmnet-mine.conf": "# of the admin\n444 mine\n",
    "vmnet-two.conf": "444 two\n445 three\n",
    "vmnet-other.conf": "444 another\n",
    "vmnet-word.conf": "0x1bc word\n",
    "vmnet-bare.conf": "444 bare",
    "vmnet-old.conf.dpkg-old": "444 old\n",
    "vmnet-half.conf": "",
}


def found(*classes) -> dict:
    view = View(Refusing(OSError()), Refusing(OSError()))
    return {resource.key: resource for cls in classes for resource in names.EDGES[cls.kind].ours(view)}


def test_names_in_files_are_found_without_records(folders):
    tables, hosts = folders
    edge = kernel(OSError())
    assert found(TableName, HostName) == {}
    wanted = [TableName(222, "a_b"), TableName(4000000000, "c"), HostName("tap0", "web", ("192.0.2.9", "2001:db8::9"))]
    for name in wanted:
        edge.apply([Change(None, name)])
    assert found(TableName, HostName) == {name.key: name for name in wanted} == edge.read(wanted)
    (hosts / "tap1").write_bytes(b"\xff\n")
    assert [r.key for r in found(HostName).values()] == ["host-name tap0", "host-name tap1"]
    for resource in found(TableName, HostName).values():
        edge.apply([Change(resource, None)])
    assert {path.name: path.read_text() for path in tables.iterdir() if path.is_file()} == THEIRS
    assert not list(hosts.iterdir())


def test_a_file_of_another_is_not_touched(folders):
    tables, _ = folders
    edge = kernel(OSError())
    for name in ("mine", "two", "word", "bare"):
        # It has the name, and stays.
        named = TableName(444, name)
        assert edge.read([named]) == {named.key: named}
        edge.apply([Change(named, None)])
    for wrong in (TableName(444, "other"), TableName(445, "mine")):
        assert edge.read([wrong]) == {}
        with pytest.raises(KernelError, match=f"{wrong.path} is not ours; remove or rename it, or choose another table_name"):
            edge.apply([Change(None, wrong)])
        edge.apply([Change(wrong, None)])
    assert {path.name: path.read_text() for path in tables.iterdir() if path.is_file()} == THEIRS
    # Cut off when a process was killed; of another number since an edit.
    for number in (444, 445):
        edge.apply([Change(None, TableName(number, "half"))])
        assert edge.read([TableName(444, "half"), TableName(445, "half")]) == {
            f"table-name {number} half": TableName(number, "half")
        }


# --- the forwarding gate ---------------------------------------------------------------------------------------------


@pytest.fixture
def proc(fs, monkeypatch):
    """/proc/sys/net/ipv6/conf of which, as in the kernel, a write to all/forwarding writes every device."""
    folder = Path("/proc/sys/net/ipv6/conf")
    for dev, value in {"all": "0", "default": "0", "eth0": "0", "eth1": "1", "lo": "0"}.items():
        (folder / dev).mkdir(parents=True)
        (folder / dev / "forwarding").write_text(value + "\n")
    real = sysctl.write_value

    def write(path: str, value: str) -> None:
        for dev in folder.iterdir() if path == FORWARDING_GATE else ():
            (dev / "forwarding").write_text(value + "\n")
        real(path, value)

    monkeypatch.setattr(sysctl, "write_value", write)
    return lambda: {dev.name: (dev / "forwarding").read_text().strip() for dev in folder.iterdir()}


BEFORE = {"all": "0", "default": "0", "eth0": "0", "eth1": "1", "lo": "0"}


@pytest.mark.parametrize("value", ["0", "1"])
def test_only_the_gate_moves(value, proc):
    sysctl.write(Sysctl(FORWARDING_GATE, value))
    assert proc() == BEFORE | {"all": value}


@pytest.mark.parametrize("writes", range(4))
def test_killed_while_the_gate_is_written(writes, proc, monkeypatch):
    real, count = sysctl.write_value, []

    def dying(path: str, value: str) -> None:
        if len(count) == writes:
            raise SystemExit("killed")
        count.append(path)
        real(path, value)

    monkeypatch.setattr(sysctl, "write_value", dying)
    try:
        sysctl.write(Sysctl(FORWARDING_GATE, "1"))
    except SystemExit:
        pass
    monkeypatch.setattr(sysctl, "write_value", real)
    sysctl.finish()
    after = proc()
    assert {**after, "all": "0"} == BEFORE, "every device has its own value"
    sysctl.finish()
    assert proc() == after


# --- nft -------------------------------------------------------------------------------------------------------------


def test_elements_from_json():
    read = nft._from_json
    assert read("inet", "guarded", "tap0", False) == NftElement("inet", "guarded", ('"tap0"',))
    key = {"concat": ["tap0", "52:54:00:aa:00:10", "192.0.2.10"]}
    assert read("inet", "sources4", key, False) == NftElement("inet", "sources4", ('"tap0"', "52:54:00:aa:00:10", "192.0.2.10"))
    assert read("arp", "arp_source", ["eth0.222", "192.0.2.254"], True) == NftElement(
        "arp", "arp_source", ('"eth0.222"',), "192.0.2.254"
    )
    assert read(
        "inet", "snat4", [{"concat": [{"prefix": {"addr": "10.5.5.0", "len": 24}}, "eth9"]}, "192.0.2.1"], True
    ) == NftElement("inet", "snat4", ("10.5.5.0/24", '"eth9"'), "192.0.2.1")
    key = {"concat": [{"prefix": {"addr": "192.0.2.0", "len": 24}}, "eth9"]}
    assert read("inet", "masquerade4", key, False) == NftElement("inet", "masquerade4", ("192.0.2.0/24", '"eth9"'))
    key = {"concat": ["192.0.2.10", "eth9"]}
    assert read("inet", "masquerade4", key, False) == NftElement("inet", "masquerade4", ("192.0.2.10/32", '"eth9"'))
    assert read("inet", "private4", key, False) == NftElement("inet", "private4", ("192.0.2.10", '"eth9"'))
    key = {"concat": ["tap0", "52:54:00:aa:00:10", {"prefix": {"addr": "::", "len": 0}}]}
    assert read("inet", "prefixes6", key, False) == NftElement("inet", "prefixes6", ('"tap0"', "52:54:00:aa:00:10", "::/0"))


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "word", "texts"),
    [
        ("bond", "mode", bond.POLICIES),
        ("bond", "xmit_hash_policy", bond.HASHES),
        ("bond", "lacp_rate", bond.RATES),
        ("bond", "miimon", ("0", "100")),
        ("vlan", "protocol", ("802.1Q", "802.1ad")),
        ("vlan", "id", ("1", "4094")),
        ("bridge", "stp_state", ("0", "1")),
        ("bridge", "forward_delay", ("0", "1500")),
        ("bridge", "group_fwd_mask", ("16384",)),
        ("macvlan", "mode", ("private",)),
    ],
)
def test_settings_come_back_as_they_were(kind, word, texts):
    for text in texts:
        encoded = device._encoded(kind, word, text)
        assert isinstance(encoded, int) or (kind, word) == ("macvlan", "mode")
        assert device._decoded(kind, word, encoded) == text


def test_what_the_kernel_says_and_we_do_not_know():
    assert device._decoded("bond", "mode", 99) == "99"
    assert device._decoded("vlan", "protocol", 0x9100) == str(0x9100)


def test_every_choice_of_an_option_is_known():
    """uapi/linux/if_bonding.h and if_ether.h count in this order."""
    assert device._WORDS["bond", "mode"] == bond.POLICIES and bond.POLICIES.index("802.3ad") == 4
    assert device._WORDS["bond", "xmit_hash_policy"] == bond.HASHES and bond.HASHES.index("layer3+4") == 1
    assert device._WORDS["bond", "lacp_rate"] == bond.RATES and bond.RATES.index("fast") == 1
    protocol = next(row for row in vlan.OPTIONS if row.name == "protocol")
    assert [protocol.parse(word) for word in device._PROTOCOLS] == list(device._PROTOCOLS)


@pytest.mark.parametrize(
    ("kind", "word", "attribute"),
    [
        ("bridge", "stp_state", "IFLA_BR_STP_STATE"),
        ("bridge", "vlan_default_pvid", "IFLA_BR_VLAN_DEFAULT_PVID"),
        ("bond", "lacp_rate", "IFLA_BOND_AD_LACP_RATE"),
        ("bond", "miimon", "IFLA_BOND_MIIMON"),
        ("vlan", "protocol", "IFLA_VLAN_PROTOCOL"),
        ("macvlan", "mode", "IFLA_MACVLAN_MODE"),
    ],
)
def test_names_of_attributes(kind, word, attribute):
    assert device._attribute(kind, word) == attribute


# --- adoption --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("default via 192.0.2.1 dev eth0 proto 3 ", "0.0.0.0/0 via 192.0.2.1 dev {dev} proto 3"),
        ("192.0.2.0/24 dev eth0 table 7 scope 253 metric 5 linkdown", "192.0.2.0/24 dev {dev} table 7 scope 253 metric 5"),
        ("198.51.100.1 dev eth0 proto 3 expires 30sec", "198.51.100.1 dev {dev} proto 3 expires 30"),
    ],
)  # fmt: skip
def test_words_of_a_route(line, words):
    assert adoption._route_words(line.split(), "eth0", "-4") == words


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"family": "inet", "local": "192.0.2.1", "prefixlen": 24, "scope": "0"}, "192.0.2.1/24 scope 0"),
        (
            {
                "family": "inet",
                "local": "192.0.2.1",
                "prefixlen": 24,
                "broadcast": "192.0.2.255",
                "scope": "0",
                "label": "eth0:1",
            },
            "192.0.2.1/24 broadcast 192.0.2.255 scope 0 label {dev}:1",
        ),
        (
            {"family": "inet", "local": "192.0.2.1", "address": "198.51.100.1", "prefixlen": 32, "scope": "0", "label": "eth0"},
            "192.0.2.1 peer 198.51.100.1/32 scope 0",
        ),
        (
            {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64, "scope": "0", "noprefixroute": True, "metric": 100},
            "2001:db8::1/64 scope 0 metric 100 noprefixroute nodad",
        ),
        (
            {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64, "scope": "0", "protocol": "0x12"},
            "2001:db8::1/64 scope 0 proto 0x12 nodad",
        ),
    ],
)
def test_words_of_an_address(entry, words):
    assert adoption._address_words(entry, "eth0") == words


def test_what_makes_a_route_that_one():
    one = adoption._identity("0.0.0.0/0 via 192.0.2.1 dev eth0 table 254 proto 3 expires 30")
    assert one == adoption._identity("0.0.0.0/0 via 192.0.2.1 dev br0 table 254 proto 4 expires 29")
    for other in ("via 192.0.2.2 dev br0 table 254", "via 192.0.2.1 dev br0 table 7", "via 192.0.2.1 dev br0 table 254 metric 9"):
        assert one != adoption._identity(f"0.0.0.0/0 {other} proto 3")

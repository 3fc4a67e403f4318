"""Malformed and hostile input, through the real front ends: one clear line, an exit status that is not 0 (but 0 where libvirt would
kill a guest that runs), nothing changed."""
# ruff: noqa: E501  (tables of inputs and messages)

import io
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from scenario import AS_ROOT

from vmnet_hooks import values
from vmnet_hooks.declared import SECTIONS, configuration
from vmnet_hooks.hook.call import handle
from vmnet_hooks.kernel import linux
from vmnet_hooks.model.declaration import Option
from vmnet_hooks.networks import bridged, routed
from vmnet_hooks.records import store

ROOT = Path(__file__).resolve().parents[2]
UUID = "00000000-0000-4000-8000-000000000001"
MAC = "52:54:00:aa:00:10"
NETWORKS = """
[networks.public]
mode = "routed"
uplink = "eth1"
table = 222
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }
ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }

[networks.lan]
mode = "bridged"
bridge = "br0"
"""


class NoKernel:
    """Nothing may even be asked of it: every input here is refused before."""

    def close(self) -> None:
        pass

    def __getattr__(self, name: str):
        pytest.fail(f"the input was let through to the kernel: {name}")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The fixed folders, moved to a place of the test's own."""
    etc, run = tmp_path / "etc", tmp_path / "run"
    (etc / "domains.d").mkdir(parents=True)
    (etc / "vmnet.toml").write_text(NETWORKS)
    monkeypatch.setattr(configuration, "DIRECTORY", str(etc))
    monkeypatch.setattr(store, "DIRECTORY", str(run))
    monkeypatch.setattr(linux, "Kernel", NoKernel)
    return tmp_path


def call(monkeypatch, capsys, frontend: str, argv: list[str], stdin: bytes) -> tuple[int, str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    status = handle(frontend, argv)
    out, err = capsys.readouterr()
    assert out == ""
    return status, err


def assert_refused(err: str) -> None:
    assert err.endswith("\n") and err.count("\n") == 1, err
    line = err[:-1]
    assert line.startswith("vmnet-hook: ")
    assert line.isprintable(), "no control character reaches a terminal"
    assert "Traceback" not in line and "internal error" not in line
    assert 20 < len(line) < 2000


def nothing_changed(path: Path) -> bool:
    return not (path / "run").exists()


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file; that the records were opened is no change, what stands in them would be."""
    files = {str(f): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.parent.name != "run"}
    if (path / "run" / "state.db").exists():
        db = sqlite3.connect(path / "run" / "state.db")
        rows = [line for line in db.iterdump() if line.startswith("INSERT")]
        db.close()
        assert not rows
    return files


# --- XML -------------------------------------------------------------------------------------------------------------


def domain(name: str = "dom1", *, nics: str | None = None, metadata: str = "", extra: str = "", uuid: str = UUID) -> str:
    """A domain whose metadata claims its NIC; text is put in as it is."""
    if nics is None:
        nics = nic()
    return (
        f'<domain type="kvm"><name>{name}</name><uuid>{uuid}</uuid><metadata>{metadata}</metadata>'
        f"<devices>{nics}</devices>{extra}</domain>"
    )


def nic(mac: str = MAC, dev: str = "tap0") -> str:
    return f'<interface type="ethernet"><mac address="{mac}"/><target dev="{dev}"/></interface>'


def claims(inner: str, attributes: str = "") -> str:
    return f'<v:domain xmlns:v="urn:vmnet-hooks:domain:1"{attributes}>{inner}</v:domain>'


def claim(mac: str = MAC, network: str = "public", ips: tuple[str, ...] = ("192.0.2.10",), attributes: str = "") -> str:
    inner = "".join(f'<v:ip address="{ip}"/>' for ip in ips)
    return claims(f'<v:interface mac="{mac}" network="{network}"{attributes}>{inner}</v:interface>')


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")


BOMB = (
    '<!DOCTYPE domain [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{"&" + chr(97 + i) + ";" * 1}{("&" + chr(97 + i) + ";") * 9}">' for i in range(12))
    + "]>"
)
GOOD = domain(metadata=claim())

XML = {
    "empty": b"",
    "blank": b"  \n ",
    "text": b"hello",
    "json": b'{"name": "dom1"}',
    "toml": b'[domain]\nname = "dom1"\n',
    "binary": bytes(range(256)),
    "zeros": bytes(1000),
    "elf": b"\x7fELF" + bytes(100),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(60),
    "unclosed": b"<domain><name>dom1</name>",
    "cut in a tag": GOOD.encode()[:-5],
    "cut in the middle": GOOD.encode()[: len(GOOD) // 2],
    "cut in an attribute": b'<domain type="kv',
    "two roots": GOOD.encode() * 2,
    "text after the root": GOOD.encode() + b"x",
    "text before the root": b"x" + GOOD.encode(),
    "tags crossed": b"<domain><name>dom1</domain></name>",
    "attribute twice": b'<domain type="kvm" type="xen"><name>d</name></domain>',
    "attribute without quotes": b"<domain type=kvm><name>d</name></domain>",
    "undeclared prefix": b"<domain><v:x/><name>d</name></domain>" + b"<",
    "bare ampersand": b"<domain><name>a & b</name></domain>",
    "undefined entity": b"<domain><name>&nope;</name></domain>",
    "character reference to NUL": b"<domain><name>a&#0;b</name></domain>",
    "character reference to a control": b"<domain><name>a&#27;[31m</name></domain>",
    "NUL in the name": b"<domain><name>a\0b</name></domain>",
    "NUL at the end": GOOD.encode() + b"\0",
    "escape in the name": b"<domain><name>a\x1b[31m</name></domain>",
    "invalid UTF-8": b"<domain><name>\xff\xfe\xfd</name></domain>",
    "overlong UTF-8": b"<domain><name>\xc0\xaf</name></domain>",
    "surrogates in UTF-8": b"<domain><name>\xed\xa0\x80</name></domain>",
    "UTF-16 declared as UTF-8": '<?xml version="1.0" encoding="UTF-8"?><domain/>'.encode("utf-16-le"),
    "UTF-8 declared as UTF-16": b'<?xml version="1.0" encoding="UTF-16"?><domain><name>d</name></domain>' + b"\xd8\x00",
    "UTF-16 without a mark": GOOD.encode("utf-16-be")[:-1],
    "UTF-16, wrong root": "<network/>".encode("utf-16"),
    "UTF-32": GOOD.encode("utf-32"),
    "unknown encoding": b'<?xml version="1.0" encoding="klingon"?><domain><name>d</name></domain>',
    "two XML declarations": b'<?xml version="1.0"?><?xml version="1.0"?>' + GOOD.encode(),
    "a comment only": b"<!-- domain -->",
    "an instruction only": b"<?domain name?>",
    "unclosed CDATA": b"<domain><name><![CDATA[dom1</name></domain>",
    "unclosed comment": b"<domain><!-- <name>d</name></domain>",
    "wrong root": b"<network><name>dom1</name></network>",
    "root of another namespace": b'<domain xmlns="urn:evil"><name>dom1</name></domain>',
    "root with shell text": b"<domain.$IFS-rm><name>d</name></domain.$IFS-rm>",
    "status file": b"<domstatus><domain><name>dom1</name></domain></domstatus>",
    "no name": b"<domain><uuid/></domain>",
    "empty name": b"<domain><name></name></domain>",
    "name with an element": b"<domain><name><b>dom1</b></name></domain>",
    "uuid is text": domain(uuid="not-a-uuid").encode(),
    "uuid with a path": domain(uuid="../../../etc/passwd").encode(),
    "uuid with newlines": domain(uuid="0000\n0000").encode(),
    "uuid too long": domain(uuid=UUID + "0").encode(),
    "uuid in other digits": domain(uuid=UUID.replace("1", "١")).encode(),
    "doctype": b"<!DOCTYPE domain>" + GOOD.encode(),
    "doctype with an unused entity": b'<!DOCTYPE domain [<!ENTITY x "y">]>' + GOOD.encode(),
    "billion laughs": (BOMB + domain("&m;")).encode(),
    "billion laughs in an attribute": (BOMB + domain(nics='<interface type="&m;"/>')).encode(),
    "quadratic blow-up": (
        '<!DOCTYPE d [<!ENTITY a "' + "a" * 50000 + '">]><domain><name>' + "&a;" * 5000 + "</name></domain>"
    ).encode(),
    "entity that contains itself": b'<!DOCTYPE d [<!ENTITY a "&a;">]><domain><name>&a;</name></domain>',
    "external entity": b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>',
    "external entity over the network": b'<!DOCTYPE d [<!ENTITY x SYSTEM "http://192.0.2.1/">]><domain><name>&x;</name></domain>',
    "parameter entity": b'<!DOCTYPE d [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><domain><name>d</name></domain>',
    "external DTD": b'<!DOCTYPE domain SYSTEM "file:///etc/passwd"><domain><name>d</name></domain>',
    "10 MB of NICs": domain(nics=nic() * (10_000_000 // len(nic()))).encode(),
    "10 MB name": domain("a" * 10_000_000).encode(),
    "10 MB of blanks": b" " * 10_000_000,
    "10 MB of rubbish": b"<" * 10_000_000,
    "10 MB attribute": domain(extra=f'<x y="{"a" * 10_000_000}"/>').encode(),
    "deep nesting": b"<domain>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</domain>",
    "deep nesting, unclosed": b"<domain>" * 50_000,
    "depth 3000": b"<domain>" + b"<a>" * 3000 + b"</a>" * 3000 + b"</domain>",
}


@pytest.mark.parametrize("operation", ["start", "started", "reconnect", "stopped", "release", "migrate"])
@pytest.mark.parametrize("data", XML.values(), ids=XML.keys())
def test_xml(data, operation, host, monkeypatch, capsys):
    if operation not in ("start", "stopped") and len(data) > 1_000_000:
        return
    before = snapshot(host)
    status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/hooks/libvirt/qemu", "dom1", operation, "begin", "-"], data)
    assert_refused(err)
    assert status == (0 if operation in ("started", "reconnect") else status), "libvirt kills the guest otherwise"
    if operation in ("start", "migrate"):
        assert status == 2
    if operation in ("stopped", "release"):
        assert status and "cleaned up by name" in err
    assert "root:x:0" not in err
    assert snapshot(host) == before


# --- what is well-formed, and still wrong ----------------------------------------------------------------------------

SHELL = [
    "; rm -rf /",
    "$(reboot)",
    "`id`",
    "a'b",
    'a"b',
    "a|b",
    "a&b",
    "*",
    "?",
    "a b",
    "a\\b",
    "-rf",
    "~root",
    "a>b",
    "{a,b}",
    "!x",
    "#",
]
TRAVERSAL = ["../../etc/passwd", "..", ".", "/etc/passwd", "a/../b", "./a", ".hidden", "domains.d/x"]
UNICODE = ["dömäin", "域", "💥", "a\u202eb", "a\u200bb", "a\u0301", "\ufeffa", "ﬃ", "١٢٣", "a\u2028b", "a\u0085b"]
LINES = ["a\nb", "a\n\nvmnet-hook: all is well", "a\tb", " a", "a ", "\n"]
LONG = ["a" * 10_000, "a" * 256, "é" * 200]
NAMES = [*SHELL, *TRAVERSAL, *UNICODE, *LINES, *LONG]

MACS = [
    "",
    "x",
    "52:54:00:aa:00",
    "52:54:00:aa:00:10:11",
    "52:54:00:aa:00:1g",
    "5254.00aa.0010",
    "525400aa0010",
    "01:00:5e:00:00:01",
    "ff:ff:ff:ff:ff:ff",
    "00:00:00:00:00:00",
    "52:54:00:aa:00:10 ",
    "52:54:00:aa:00:10\n",
    "52:54:00:aa:00:10; rm -rf /",
    "$(id)",
    '52:54:00:aa:00:10"',
    "52:54:00:aa:00:1٠",
    "5２:54:00:aa:00:10",
    "*",
    "-1",
    "52:54:00:aa:00:10" * 1000,
]
IPS = [
    "", "x", "192.0.2.10/24", "192.0.2.256", "192.0.2", "192.0.2.010", "0xc000020a", "3221225994", "192.0.2.10 ", "192.0.2.10\n", "0",
    "192.0.2.10; rm -rf /", "$(id)", "*", "192.0.2.1٠", "0.0.0.0", "255.255.255.255", "127.0.0.1", "169.254.1.1", "224.0.0.1",
    "192.0.2.0", "192.0.2.255", "192.0.2.1", "192.0.2.254", "198.51.100.1", "::", "::1", "fe80::1", "fe80::1%eth0", "2001:db8::1%eth0",
    "ff02::1", "2001:db8::", "2001:db8::1", "2001:db8:1::1", "2001:db8::10/128", "::ffff:192.0.2.10", ":::", "2001:db8::g", "[2001:db8::10]",
    "1" * 10_000, "default", "any", "-1", "192.0.2.10,192.0.2.11",
]  # fmt: skip
IFNAMES = [
    "a" * 16, "a" * 10_000, "a b", "a/b", "a:b", "a\nb", "a\tb", 'a"b', "a'b", "a;rm", "; rm -rf /", "$(id)", "`id`", "*", "a*", "tap%d",
    "-tap", ".", "..", "a{b", "a}b", "a\\b", "täp", "tap\u200b", "💥", "a,b", "@tap", "a$b", "a|b", "a&b", "a#b", "a!",
]  # fmt: skip


def xml_with(**kw) -> bytes:
    return domain(**kw).encode()


WRONG: dict[str, bytes] = {}
for text in NAMES:
    if not text.strip(" \n") or any(ord(c) < 32 and c not in "\n\t" for c in text):
        continue
    # The name itself is libvirt's business; the claim is wrong, and its error must not be torn apart by the name.
    WRONG[f"name {text[:20]!r}"] = xml_with(name=escaped(text), metadata=claim(network="nowhere"))
    WRONG[f"network {text[:20]!r}"] = xml_with(metadata=claim(network=escaped(text)))
for text in MACS:
    WRONG[f"mac of a claim {text[:24]!r}"] = xml_with(metadata=claim(mac=escaped(text)))
for text in ("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "x", "$(id)", ""):
    WRONG[f"mac of a bridged NIC {text!r}"] = xml_with(
        nics=f'<interface type="bridge"><mac address="{text}"/><source bridge="br0"/><target dev="tap0"/></interface>'
    )
for text in IPS:
    WRONG[f"ip {text[:24]!r}"] = xml_with(metadata=claim(ips=(escaped(text),)))
for text in IFNAMES:
    WRONG[f"tap {text[:20]!r}"] = xml_with(nics=nic(dev=escaped(text)), metadata=claim())
WRONG |= {
    "ip twice": xml_with(metadata=claim(ips=("192.0.2.10", "192.0.2.10"))),
    "ip twice, spelt differently": xml_with(metadata=claim(ips=("2001:db8::10", "2001:DB8:0::10"))),
    "claim twice": xml_with(metadata=claims(claim()[len(claims("")) - 12 : -12] * 2).replace("<v:domain", "<v:domain", 1)),
    "claim of another MAC": xml_with(metadata=claim(mac="52:54:00:aa:00:99")),
    "no address": xml_with(metadata=claim(network="lan", attributes=' filter="maybe"', ips=())),
    "two NICs of one MAC": xml_with(nics=nic() + nic(dev="tap1"), metadata=claim()),
    "two NICs of one tap": xml_with(
        nics=nic() + nic("52:54:00:aa:00:11"),
        metadata=claims(
            "".join(
                f'<v:interface mac="52:54:00:aa:00:{n}" network="public"><v:ip address="192.0.2.{n}"/></v:interface>'
                for n in (10, 11)
            )
        ),
    ),
    "unknown network": xml_with(metadata=claim(network="publik")),
    "unknown element": xml_with(metadata=claims("<v:nic/>")),
    "unknown element of another namespace": xml_with(metadata=claims('<x:interface xmlns:x="urn:x"/>')),
    "unknown element without a namespace": xml_with(metadata=claims("<interface/>")),
    "unknown element in an interface": xml_with(
        metadata=claims(f'<v:interface mac="{MAC}" network="public"><v:mtu/></v:interface>')
    ),
    "unknown attribute": xml_with(metadata=claim(attributes=' vlans="3"')),
    "VLAN of a routed network": xml_with(metadata=claim(attributes=' vlan="3"')),
    "VLANs of a routed network": xml_with(metadata=claim(attributes=' tagged="3,4-5"')),
    "VLAN is huge": xml_with(metadata=claim(attributes=f' vlan="{"9" * 5000}"')),
    "VLAN is a range": xml_with(metadata=claim(network="lan", ips=(), attributes=' vlan="3-4"')),
    "VLAN is hostile": xml_with(metadata=claim(network="lan", ips=(), attributes=' vlan="$(id)&#10;"')),
    "VLANs are hostile": xml_with(metadata=claim(network="lan", ips=(), attributes=' tagged="3,$(id)"')),
    "VLANs are huge": xml_with(metadata=claim(network="lan", ips=(), attributes=f' tagged="1-{"9" * 5000}"')),
    "unknown attribute of an ip": xml_with(metadata=claim().replace("<v:ip ", '<v:ip prefix="24" ')),
    "attribute of a namespace": xml_with(metadata=claim(attributes=' v:filter="no"')),
    "filter is a word": xml_with(metadata=claim(attributes=' filter="false"')),
    "interface without anything": xml_with(metadata=claims("<v:interface/>")),
    "interface without mac": xml_with(metadata=claims('<v:interface network="public"/>')),
    "interface without network": xml_with(metadata=claims(f'<v:interface mac="{MAC}"/>')),
    "instruction in the metadata": xml_with(metadata=claims("<?rm -rf?>")),
    "routed NIC of no family": xml_with(metadata=claim(ips=("10.0.0.1",))),
    "no tap": xml_with(nics=f'<interface type="ethernet"><mac address="{MAC}"/></interface>', metadata=claim(mac="x")),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_well_formed_and_wrong(data, host, monkeypatch, capsys):
    before = snapshot(host)
    for operation in ("start", "reconnect"):
        status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/hooks/libvirt/qemu", "dom1", operation, "begin", "-"], data)
        assert_refused(err)
        assert status == (0 if operation == "reconnect" else status)
        assert status or operation == "reconnect"
    assert snapshot(host) == before


@pytest.mark.parametrize("name", [n for n in NAMES if n.strip()], ids=lambda n: repr(n[:20]))
def test_a_hostile_name_reads_no_file_outside(name, host, monkeypatch, capsys):
    """Nothing claims the NIC: it is left alone, whatever its domain is called."""
    (host / "etc" / "evil.toml").write_text('[[interfaces]]\nmac = "x"\n')
    (host / "etc" / "domains.d" / "x.toml").write_text('[[interfaces]]\nmac = "x"\n')
    before = snapshot(host)
    for hostile in (name, f"../evil{name}", f"{name}/../x"):
        data = domain(escaped(hostile)).encode()
        assert call(monkeypatch, capsys, "libvirt/qemu", ["/x/qemu", hostile, "start", "begin", "-"], data) == (0, "")
    assert snapshot(host) == before


# --- TOML ------------------------------------------------------------------------------------------------------------

BROKEN_TOML = {
    "text": b"hello",
    "unclosed table": b"[networks.public",
    "unclosed string": b'[networks.a]\nmode = "routed',
    "key twice": b'[networks.a]\nmode = "routed"\nmode = "bridged"',
    "table twice": b"[networks.a]\n[networks.a]",
    "no value": b"[networks.a]\nmode =",
    "yaml": b"networks:\n  public:\n    mode: routed\n",
    "json": b'{"networks": {}}',
    "ini": b"[networks.a]\nmode: routed\n",
    "xml": b"<networks/>",
    "NUL": b'[networks.a]\nmode = "a\0b"',
    "invalid UTF-8": b'[networks.a]\nmode = "\xff"',
    "UTF-16": NETWORKS.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + NETWORKS.encode(),
    "control character": b'[networks.a]\nmode = "\x1b[31m"',
    "lone carriage return": b"[networks.a]\rmode = 1",
    "5 MB": b"#" + b"a" * 5_000_000,
    "deep arrays": b"a = " + b"[" * 100_000 + b"]" * 100_000,
    "deep tables": b"a = " + b"{a=" * 20_000,
    "bad date": b"a = 2024-99-99",
    "huge integer": b"[networks.a]\nmode = " + b"9" * 10_000,
    "bad escape": b'a = "\\q"',
    "unknown top key": b"[network.public]\nmode = 1",
    "networks is a number": b"networks = 3",
    "networks is a list": b"networks = [1, 2]",
    "networks is a list of tables": b"[[networks]]\nmode = 'routed'",
    "network is text": b'networks.public = "routed"',
    "no mode": b"[networks.public]\nuplink = 'eth1'",
    "unknown mode": b"[networks.public]\nmode = 'vxlan'",
    "mode is a list": b"[networks.public]\nmode = ['routed']",
    "mode is a table": b"[networks.public.mode]\n",
    "no uplink": b"[networks.public]\nmode = 'routed'\ntable = 3",
    "neither family": b"[networks.public]\nmode = 'routed'\nuplink = 'eth1'\ntable = 3",
    "network's name is empty": b"[networks.'']\nmode = 'bridged'\nbridge = 'br0'",
    "network's name is a path": b"[networks.'../a']\nmode = 'bridged'\nbridge = 'br0'",
    "network's name has lines": b'[networks."a\\nb"]\nmode = "bridged"\nbridge = "br0"',
    "network's name is long": b"[networks." + b"a" * 10_000 + b"]\nmode = 'bridged'\nbridge = 'br0'",
    "network's name has unicode": "[networks.'ö']\nmode = 'bridged'\nbridge = 'br0'".encode(),
}
WRONG_TYPES = {
    "bool": "true",
    "int": "7777777777777",
    "negative": "-1",
    "float": "1.5",
    "text": '"\\u001b; rm -rf / $(id) *"',
    "empty": '""',
    "list": "[1]",
    "table": "{ a = 1 }",
    "date": "2024-01-01",
    "lines": '"a\\nb"',
    "nan": "nan",
}
RIGHT = {
    "routed": {
        "uplink": '"eth1"',
        "table": "222",
        "ipv4": '{ subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }',
    },
    "bridged": {"bridge": '"br0"'},
}
ACCEPTED = {
    "list": {"tagged"},
    # Empty is "none" where an interface or MAC may be left out.
    "empty": {"tap_mac", "gateway_mac"},
}


def accepts(row: Option, kind: str) -> bool:
    """Whether a value of a wrong type is a right one for this option."""
    return row.name in ACCEPTED.get(kind, ()) or (
        kind == "bool" and (row.parse is values.boolean or row.name in ("masquerade", "antispoof"))
    )


def _by_type():
    """Every option with a value of every wrong type."""
    for mode, module in (("routed", routed), ("bridged", bridged)):
        for row in module.OPTIONS:
            for kind, value in WRONG_TYPES.items():
                if accepts(row, kind):
                    continue
                keys = {**RIGHT[mode], row.name: value}
                text = f'[networks.n]\nmode = "{mode}"\n' + "".join(f"{k} = {v}\n" for k, v in keys.items())
                yield f"{mode}.{row.name} is {kind}", text
                for sub in row.keys:
                    inside = {"subnet": '"192.0.2.0/24"', "gateway": '"192.0.2.1"', "arp_source": '"192.0.2.254"'}
                    if row.name == "ipv6":
                        inside = {"subnet": '"2001:db8::/64"', "gateway": '"2001:db8::1"'}
                    inside[sub.name] = value
                    keys = {**RIGHT[mode], row.name: "{ " + ", ".join(f"{k} = {v}" for k, v in inside.items()) + " }"}
                    text = f'[networks.n]\nmode = "{mode}"\n' + "".join(f"{k} = {v}\n" for k, v in keys.items())
                    yield f"{mode}.{row.name}.{sub.name} is {kind}", text


PARTS = {
    "vlans": {"parent": '"eth1"', "id": "100"},
    "bonds": {"ports": '["eth1"]'},
    "bridges": {},
    "dummies": {},
    "nat": {"subnet": '"10.0.0.0/8"', "out": '"eth9"', "masquerade": "true"},
}


def _part(section: str, keys: dict[str, str], name: str = "n") -> str:
    return f"[{section}.{json.dumps(name)}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items())


def _parts_by_type():
    """Every option of the host's own parts with a value of every wrong type, and hostile names."""
    for section, right in PARTS.items():
        for row in SECTIONS[section].options:
            for kind, value in {**WRONG_TYPES, "huge": "9" * 4000, "long": f'"{"a" * 10_000}"'}.items():
                if not accepts(row, kind):
                    yield f"{section}.{row.name} is {kind}", _part(section, {**right, row.name: value})
            if row.name in ("ports", "addresses", "gateway", "vlans"):
                for kind, value in {
                    "nested": "[[1]]",
                    "tables": "[{}]",
                    "hostile": '["a\\nb", "$(id)"]',
                    "huge": f"[{'9' * 4000}]",
                }.items():
                    yield f"{section}.{row.name} holds {kind}", _part(section, {**right, row.name: value})
        for name in NAMES:
            if not (section == "nat" and name in ("#",)):
                yield f"{section}: name {name[:20]!r}", _part(section, right, name)
        yield f"{section} is a number", f"{section} = 3\n"
        yield f"{section} is a list of tables", f"[[{section}]]\n"
        yield f"{section}: part is text", f'{section}.n = "x"\n'
    for name in NAMES:
        yield f"port {name[:20]!r}", _part("bridges", {"ports": json.dumps([name])})
    chain = "".join(_part("vlans", {"parent": f'"v{(n + 1) % 1500}"', "id": "7"}, f"v{n}") for n in range(1500))
    yield "a circle of 1500 VLANs", chain


WRONG_VALUES: dict[str, dict[str, bytes]] = {}
for key, text in (*_by_type(), *_parts_by_type()):
    WRONG_VALUES.setdefault(re.split(" is | holds |: name | ['\"]", key)[0], {})[key] = text.encode()


@pytest.mark.parametrize("data", BROKEN_TOML.values(), ids=BROKEN_TOML.keys())
def test_toml(data, host, monkeypatch, capsys):
    refused_toml(data, host, monkeypatch, capsys)


@pytest.mark.parametrize("texts", WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_wrong_values_of(texts, host, monkeypatch, capsys):
    for what, data in texts.items():
        try:
            refused_toml(data, host, monkeypatch, capsys)
        except AssertionError as error:
            raise AssertionError(what) from error


def refused_toml(data: bytes, host, monkeypatch, capsys) -> None:
    (host / "etc" / "vmnet.toml").write_bytes(data)
    before = snapshot(host)
    for operation in ("start", "reconnect"):
        status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/qemu", "dom1", operation, "begin", "-"], GOOD.encode())
        assert_refused(err)
        assert str(host / "etc" / "vmnet.toml") in err, "names the file"
        assert status == (0 if operation == "reconnect" else 2)
    status, err = call(monkeypatch, capsys, "qemu/ifup", ["/x/qemu/ifup", "tap0"], b"")
    assert_refused(err)
    assert status == 2
    assert snapshot(host) == before


def _domain_files():
    good = {"network": '"public"', "mac": f'"{MAC}"', "ifname": '"tap0"', "ips": '["192.0.2.10"]', "filter": "true"}
    for row in configuration.INTERFACE_OPTIONS:
        for kind, value in WRONG_TYPES.items():
            if not accepts(row, kind):
                keys = {**good, row.name: value}
                yield f"{row.name} is {kind}", "[[interfaces]]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items())
    yield "ips holds numbers", f'[[interfaces]]\nmac = "{MAC}"\nnetwork = "public"\nips = [1]\n'
    yield "ips holds tables", f'[[interfaces]]\nmac = "{MAC}"\nnetwork = "public"\nips = [{{}}]\n'
    yield "unknown key", f'[[interfaces]]\nmac = "{MAC}"\nnetwork = "public"\nip = "192.0.2.10"\n'
    yield "unknown top key", f'[[interface]]\nmac = "{MAC}"\nnetwork = "public"\n'
    yield "not a list", f'[interfaces]\nmac = "{MAC}"\nnetwork = "public"\n'
    yield "neither mac nor ifname", '[[interfaces]]\nnetwork = "public"\n'
    yield "no network", f'[[interfaces]]\nmac = "{MAC}"\n'
    yield (
        "two claims of a NIC",
        f'[[interfaces]]\nmac = "{MAC}"\nifname = "tap0"\nnetwork = "public"\nips = ["192.0.2.10"]\n' * 2,
    )
    yield "broken", "[[interfaces"


@pytest.mark.parametrize("text", [t for _, t in _domain_files()], ids=[k for k, _ in _domain_files()])
def test_domain_toml(text, host, monkeypatch, capsys):
    path = host / "etc" / "domains.d" / "dom1.toml"
    path.write_text(text)
    before = snapshot(host)
    status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/qemu", "dom1", "start", "begin", "-"], domain().encode())
    assert_refused(err)
    assert str(path) in err, "names the file"
    assert status == 2
    status, err = call(monkeypatch, capsys, "qemu/ifup", ["/x/qemu/ifup", "tap0"], b"")
    assert_refused(err)
    assert status == 2
    assert snapshot(host) == before


@pytest.mark.parametrize("what", ["a folder", "a dangling link", "a device"])
def test_files_that_are_none(what, host, monkeypatch, capsys):
    path = host / "etc" / "domains.d" / "dom1.toml"
    if what == "a folder":
        path.mkdir()
    elif what == "a dangling link":
        path.symlink_to("/nonexistent")
    else:
        path.symlink_to("/dev/zero")
    status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/qemu", "dom1", "start", "begin", "-"], domain().encode())
    if what == "a dangling link":
        assert (status, err) == (0, "")
        return
    assert_refused(err)
    assert status == 2


# --- argv ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["dom1"], [""]], ids=repr)
def test_argv_of_libvirt(argv, host, monkeypatch, capsys):
    status, err = call(monkeypatch, capsys, "libvirt/qemu", ["/x/hooks/libvirt/qemu", *argv], GOOD.encode())
    assert_refused(err)
    assert status == 2


@pytest.mark.parametrize("hook", ["ifup", "ifdown"])
@pytest.mark.parametrize("argv", [[], [""], *[[i] for i in IFNAMES]], ids=lambda a: repr(a)[:24])
def test_argv_of_qemu(argv, hook, host, monkeypatch, capsys):
    status, err = call(monkeypatch, capsys, f"qemu/{hook}", [f"/x/hooks/qemu/{hook}", *argv], b"")
    assert_refused(err)
    assert status == 2
    assert nothing_changed(host)


def test_a_tap_that_nothing_claims(host, monkeypatch, capsys):
    status, err = call(monkeypatch, capsys, "qemu/ifup", ["/x/hooks/qemu/ifup", "tap7"], b"")
    assert_refused(err)
    assert status == 2 and "'tap7'" in err


# --- as libvirt and QEMU do it: a process ----------------------------------------------------------------------------

PROCESSES = [
    ("empty", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["empty"], 2),
    ("binary", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["binary"], 2),
    ("billion laughs", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["billion laughs"], 2),
    ("external entity", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["external entity"], 2),
    ("10 MB", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["10 MB of NICs"], 2),
    ("deep", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["deep nesting"], 2),
    ("wrong root", "libvirt/qemu", ["dom1", "start", "begin", "-"], XML["wrong root"], 2),
    ("a hostile name", "libvirt/qemu", ["$(id)\n\x1b[31m;rm", "start", "begin", "-"], XML["unclosed"], 2),
    ("a name that is not UTF-8", "libvirt/qemu", [b"\xff\xfe", "start", "begin", "-"], XML["unclosed"], 2),
    ("reconnect", "libvirt/qemu", ["dom1", "reconnect", "begin", "-"], XML["unclosed"], 0),
    ("started", "libvirt/qemu", ["dom1", "started", "begin", "-"], XML["unclosed"], 0),
    ("migrate", "libvirt/qemu", ["dom1", "migrate", "begin", "-"], XML["unclosed"], 2),
    ("no argument", "libvirt/qemu", [], b"", 2),
    ("no operation", "libvirt/qemu", ["dom1"], b"", 2),
    ("metadata", "libvirt/qemu", ["dom1", "start", "begin", "-"], WRONG["unknown attribute"], 2),
    ("no tap", "qemu/ifup", [], b"", 2),
    ("hostile tap", "qemu/ifup", ["; rm -rf /"], b"", 2),
    ("tap that is not UTF-8", "qemu/ifdown", [b"\xff\n"], b"", 2),
]


@pytest.mark.parametrize(("hook", "argv", "stdin", "status"), [p[1:] for p in PROCESSES], ids=[p[0] for p in PROCESSES])
def test_as_a_process(hook, argv, stdin, status):
    """All of these are refused before configuration or records are read: no namespace is needed."""
    command = [sys.executable, "-IS", "-c", AS_ROOT, ROOT / "hooks" / hook, *argv]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    assert done.stdout == b""
    assert_refused(done.stderr.decode())
    assert done.returncode == status


def test_a_closed_stdin_and_a_reader_that_is_gone():
    """libvirt may die while it writes: what comes is cut, or nothing at all."""
    hook = f"{ROOT}/hooks/libvirt/qemu"
    command = ["/bin/sh", "-c", f"exec {sys.executable} -IS -c '{AS_ROOT}' {hook} dom1 start begin - <&-"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert_refused(done.stderr.decode())
    assert done.returncode


def test_there_are_enough():
    assert (
        len(XML)
        + len(WRONG)
        + len(BROKEN_TOML)
        + sum(map(len, WRONG_VALUES.values()))
        + len(list(_domain_files()))
        + len(IFNAMES)
        >= 200
    )

"""Names of guests at DNS servers: what is declared, what is asked for, and what a server is told, whatever a guest is called."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vmnet_hooks.agent import registrar
from vmnet_hooks.declared import configuration
from vmnet_hooks.engine import registered as owed
from vmnet_hooks.errors import ConfigError, InputError, StoreError, VmnetError
from vmnet_hooks.kernel import nsupdate as program
from vmnet_hooks.model.declaration import Broken, Config
from vmnet_hooks.model.owner import Nic
from vmnet_hooks.records import registered
from vmnet_hooks.records.registered import Name, Names
from vmnet_hooks.services import nsupdate
from vmnet_hooks.services.ddns import IN_USE, Place, Registration, wanted

NETWORKS = """
[networks.public]
mode = "hostroute"
netdev = "eth0"
[networks.lan]
mode = "bridged"
bridge = "br0"
"""
LAB = """
[ddns.lab]
server = "192.0.2.53"
zone = "lab.example"
reverse = ["2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"]
key = "/etc/vmnet-hooks/ddns.key"
networks = ["public"]
"""
SERVER = "192.0.2.53#53"
KEY = nsupdate.Key("vmnet", "hmac-sha256", "c2VjcmV0")
MARK = "0123456789abcdef"
OTHER = "2001:db8:8::5#5353"


def load(tmp_path: Path, text: str) -> Config:
    (tmp_path / "vmnet.toml").write_text(NETWORKS + text)
    return configuration.load(str(tmp_path))


def nic(domain: str = "web1", *addresses: str, number: int = 1, network: str = "public", phase: str = "active") -> Nic:
    return Nic(
        id=f"{domain}/{number}",
        frontend="libvirt/qemu",
        domain=domain,
        domain_id=f"name:{domain}",
        ifname=f"tap{number}",
        ifindex=number,
        mac=f"52:54:00:00:00:{number:02x}",
        network=network,
        phase=phase,
        addresses=addresses or ("192.0.2.10", "2001:db8::10"),
        since=float(number),
    )


def names(config: Config, *nics: Nic) -> dict[str, str]:
    """What is asked for: the records by name."""
    found = wanted(config.ddns.values(), nics).names
    return {place.name: " ".join(f"{kind} {value}" for kind, value in each.records) for place, each in found.items()}


# --- the table -----------------------------------------------------------------------------------------------------------


def test_a_table(tmp_path: Path) -> None:
    config = load(tmp_path, LAB)
    (part,) = config.ddns.values()
    assert (part["server"], part["zone"], part["ttl"]) == (SERVER, "lab.example", 300)
    assert config.part("ddns:lab") is part and "ddns:lab" not in config.parts
    with pytest.raises(InputError, match="comes with its guest; if that runs already: vmnet-hook repair"):
        config.find("ddns:lab")
    (part,) = load(tmp_path, LAB.replace("192.0.2.53", "2001:db8:8::5#5353")).ddns.values()
    assert part["server"] == OTHER


WRONG = (
    ('server = "192.0.2.53"', 'server = "ns.example"', "is not the address of a server; write 192.0.2.53 or"),
    ('server = "192.0.2.53"', 'server = "192.0.2.53#0"', "has no port after #"),
    ('server = "192.0.2.53"', 'server = "192.0.2.53#99999999"', "has no port after #"),
    ('server = "192.0.2.53"', 'server = "192.0.2.53#\\u0661"', "has no port after #"),
    ('server = "192.0.2.53"', 'server = "fe80::1%eth0"', "is not the address of a server"),
    ('server = "192.0.2.53"', 'server = "0.0.0.0"', "is no address of a server"),
    ('zone = "lab.example"', 'zone = "lab example"', "is not a domain name"),
    ('zone = "lab.example"', 'zone = "lab.example\\nserver 10.0.0.1"', "is not a domain name"),
    ('zone = "lab.example"', f'zone = "{"a" * 60}.{"b" * 60}.{"c" * 61}"', "is too long"),
    ('zone = "lab.example"', 'zone = "2.0.192.in-addr.arpa"', "is a zone of addresses; list it in `reverse`"),
    ('"2.0.192.in-addr.arpa"', '"0-27.2.0.192.in-addr.arpa"', "is no reverse zone"),
    ('"2.0.192.in-addr.arpa"', '"in-addr.arpa"', "is no reverse zone"),
    ('"2.0.192.in-addr.arpa"', '"192.0.2.0/24"', "is not a domain name"),
    ('key = "/etc', 'key = "etc', "is not the whole path of a file"),
    ('key = "/etc', 'key = "/etc\\n', "is not the whole path of a file"),
    ('["public"]', "[]", "must be a list of networks"),
    ('["public"]', '["publik"]', "no network publik is declared; did you mean 'public'?"),
    ("[ddns.lab]", "[ddns.lab]\nttl = 0", "must be a whole number from 1 to 604800"),
    ('server = "192.0.2.53"\n', "", "missing; give the address"),
)


@pytest.mark.parametrize(("before", "after", "said"), WRONG, ids=[row[2][:30] for row in WRONG])
def test_mistakes(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in LAB
    with pytest.raises(ConfigError, match="vmnet.toml: ddns.lab") as caught:
        load(tmp_path, LAB.replace(before, after))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_tables_that_would_undo_each_other(tmp_path: Path) -> None:
    second = LAB.replace("ddns.lab", "ddns.two")
    with pytest.raises(ConfigError, match="ddns.two.zone: lab.example at 192.0.2.53#53 is that of ddns.lab, too"):
        load(tmp_path, LAB + second)
    with pytest.raises(
        ConfigError, match="ddns.two.reverse: 2.0.192.in-addr.arpa has the addresses of network public by ddns.lab"
    ):
        load(tmp_path, LAB + second.replace("lab.example", "two.example"))
    load(tmp_path, LAB + second.replace("lab.example", "two.example").replace('["public"]', '["lan"]'))
    load(tmp_path, LAB + second.replace("192.0.2.53", "192.0.2.54"))


def test_a_mistake_concerns_no_guest(tmp_path: Path) -> None:
    (tmp_path / "vmnet.toml").write_text(NETWORKS + LAB.replace("/etc", "etc"))
    config = configuration.survey(str(tmp_path))
    config.check_routed()
    assert config.on_bridge("br0") and not config.ddns and "ddns:lab" in config.broken
    # A network with a mistake may be the one that is meant.
    (tmp_path / "vmnet.toml").write_text(NETWORKS.replace('"eth0"', "0") + LAB)
    assert [str(error) for error in configuration.survey(str(tmp_path)).errors if "ddns" in str(error)] == []


# --- what is asked for ---------------------------------------------------------------------------------------------------


def test_names_and_addresses(tmp_path: Path) -> None:
    config = load(tmp_path, LAB)
    assert names(config, nic()) == {
        "web1.lab.example": "A 192.0.2.10 AAAA 2001:db8::10",
        "10.2.0.192.in-addr.arpa": "PTR web1.lab.example.",
        "0.1." + "0." * 22 + "8.b.d.0.1.0.0.2.ip6.arpa": "PTR web1.lab.example.",
    }
    # Two NICs of one guest: one name. What no reverse zone has gets no PTR, and what others could not reach no record.
    two = [nic("Web1", "192.0.2.10"), nic("Web1", "10.0.0.1", "192.0.2.0/28", "fe80::1", number=2)]
    assert names(config, *two) == {
        "web1.lab.example": "A 192.0.2.10 A 10.0.0.1",
        "10.2.0.192.in-addr.arpa": "PTR web1.lab.example.",
    }


@pytest.mark.parametrize("phase", ["plugged", "incoming", "preparing", "leftover"])
def test_only_what_runs_here(tmp_path: Path, phase: str) -> None:
    config = load(tmp_path, LAB)
    assert names(config, nic(phase=phase)) == names(config, nic(network="lan")) == {}


def test_two_guests_of_one_name(tmp_path: Path) -> None:
    """The older one has it; the other one gets nothing, not even a PTR record."""
    config = load(tmp_path, LAB)
    both = [nic("web.1", "192.0.2.10"), nic("web_1", "192.0.2.11", number=2)]
    asked = wanted(config.ddns.values(), both)
    assert names(config, *both) == {"web-1.lab.example": "A 192.0.2.10", "10.2.0.192.in-addr.arpa": "PTR web-1.lab.example."}
    assert [(each.domain, *rest) for each, *rest in asked.refused] == [
        ("web_1", "ddns:lab", "web-1.lab.example is that of guest web.1", "rename one of the guests")
    ]


HOSTILE = (
    "web1\nserver 10.0.0.1",
    "web1. 300 A 10.0.0.1\nupdate delete lab.example",
    "; send",
    "../../etc",
    "www.lab.example.",
    "_vmnet.web1",
    "\udcff\x00\x1b[31m",
    "a" * 500,
    "-" * 70 + "b" * 70,
    "xn--ls8h",
    "*",
    "@",
    "ÄÖÜ",
    "\u0661\u0662",
    "$(reboot)`id`",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path: Path, name: str) -> None:
    """What a server is told of a guest is a name of one label in the zone, or nothing."""
    config = load(tmp_path, LAB)
    asked = wanted(config.ddns.values(), [nic(name)])
    if not asked.names:
        assert [rest[1] for _, *rest in asked.refused] == ["no host name can be made of the guest's name"]
        return
    for place, registration in asked.names.items():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.lab\.example|[0-9a-f.]+\.(in-addr|ip6)\.arpa", place.name)
        for text in (*nsupdate.additions(registration, (), MARK, KEY), nsupdate.removal(place, registration.records, MARK, KEY)):
            assert_sound(text)


LINE = re.compile(
    r"server (192\.0\.2\.53 53|2001:db8:8::5 5353)|zone [a-z0-9.-]+\.|key hmac-sha256:vmnet\. c2VjcmV0|send|answer|"
    r"prereq (nxdomain {0}|nxrrset {0} (A|AAAA|PTR)|yxrrset {0} TXT( vmnet-hooks:[0-9a-f]{{16}})?|yxrrset {0} {1})|"
    r"update (delete {0} ({1}|TXT)|add {0} \d+ ({1}|TXT vmnet-hooks:[0-9a-f]{{16}}))".replace("{{", "{")
    .replace("}}", "}")
    .replace("{0}", r"[a-z0-9._-]+\.")
    .replace("{1}", r"(A [0-9.]+|AAAA [0-9a-f:]+|PTR [a-z0-9.-]+\.)")
)


def assert_sound(text: str) -> None:
    """Every line is one that we write, and there is one update."""
    lines = text.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert lines[:3] == [line for line in lines if line.split()[0] in ("server", "zone", "key")] and lines[-2:] == [
        "send",
        "answer",
    ]
    assert lines.count("send") == 1 and text.isascii()


# --- what a server is told -----------------------------------------------------------------------------------------------

WEB1 = Registration(
    Place(SERVER, "lab.example", "web1.lab.example"),
    "ddns:lab",
    "/etc/vmnet-hooks/ddns.key",
    300,
    "web1",
    (("A", "192.0.2.10"), ("AAAA", "2001:db8::10")),
)


def test_an_addition() -> None:
    free, mine, moved = nsupdate.additions(WEB1, (), MARK, KEY)
    assert free == (
        "server 192.0.2.53 53\nzone lab.example.\nkey hmac-sha256:vmnet. c2VjcmV0\n"
        "prereq nxdomain web1.lab.example.\n"
        "update delete web1.lab.example. A 192.0.2.10\nupdate delete web1.lab.example. AAAA 2001:db8::10\n"
        "update delete _vmnet.web1.lab.example. TXT\n"
        "update add web1.lab.example. 300 A 192.0.2.10\nupdate add web1.lab.example. 300 AAAA 2001:db8::10\n"
        f"update add _vmnet.web1.lab.example. 300 TXT vmnet-hooks:{MARK}\nsend\nanswer\n"
    )
    assert f"prereq yxrrset _vmnet.web1.lab.example. TXT vmnet-hooks:{MARK}\n" in mine
    assert "prereq yxrrset web1.lab.example. A 192.0.2.10\nprereq yxrrset web1.lab.example. AAAA" in moved
    # Another address: the old one goes in the same update. What had been registered is asked for first.
    edited = replace(WEB1, records=(("A", "192.0.2.11"),))
    first, _, moved = nsupdate.additions(edited, WEB1.records, MARK, KEY)
    assert "TXT vmnet-hooks:" in first.partition("update")[0] and "prereq nxrrset web1.lab.example. AAAA" in moved
    assert "update delete web1.lab.example. AAAA 2001:db8::10\n" in first and first.count("update add") == 2


def test_a_removal_has_a_prerequisite() -> None:
    text = nsupdate.removal(WEB1.place, WEB1.records, MARK, KEY)
    assert text.count("prereq") == 1 and f"prereq yxrrset _vmnet.web1.lab.example. TXT vmnet-hooks:{MARK}\n" in text
    assert text.count("update delete") == 3 and "update delete web1.lab.example. A 192.0.2.10\n" in text


BAD = (
    replace(WEB1, place=WEB1.place._replace(name="web1.lab.example\nsend")),
    replace(WEB1, place=WEB1.place._replace(name="web1 .lab.example")),
    replace(WEB1, place=WEB1.place._replace(zone="lab.example. \nupdate add x")),
    replace(WEB1, place=WEB1.place._replace(server="192.0.2.53\nzone x#53")),
    replace(WEB1, place=WEB1.place._replace(server="192.0.2.53#53\nzone x")),
    replace(WEB1, records=(("A", "192.0.2.10\nsend"),)),
    replace(WEB1, records=(("AAAA", "192.0.2.10"),)),
    replace(WEB1, records=(("TXT", "x"),)),
    replace(WEB1, records=(("PTR", "x y."),)),
)


@pytest.mark.parametrize("registration", BAD)
def test_nothing_else_becomes_a_line(registration: Registration) -> None:
    """Whatever the records may hold: a second line of defence."""
    with pytest.raises(ValueError):
        nsupdate.additions(registration, (), MARK, KEY)
    with pytest.raises(ValueError):
        nsupdate.removal(registration.place, registration.records, MARK, KEY)
    with pytest.raises(ValueError):
        nsupdate.removal(WEB1.place, (), "x y", KEY)


GENERATED = 'key "vmnet" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n'


def test_keys() -> None:
    assert nsupdate.key_of(GENERATED) == KEY and "c2Vj" not in repr(KEY)
    other = "# mine\n/* key x { } */ key vmnet { secret c2VjcmV0; algorithm HMAC-SHA256; }; // end"
    assert nsupdate.key_of(other) == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2VjcmV0",
        GENERATED * 2,
        GENERATED.replace("vmnet", "a b"),
        GENERATED.replace("c2VjcmV0", "c2VjcmV0\nsend"),
        GENERATED.replace("c2VjcmV0", "c2Vjc mV0"),
        GENERATED.replace("hmac-sha256", "rsa"),
        GENERATED.replace("algorithm", "secret"),
        GENERATED.replace("};", "} include x;"),
        GENERATED.replace("\tsecret", "\tother x; secret"),
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        nsupdate.key_of(text)
    assert "c2Vj" not in str(caught.value)


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(GENERATED)
    path.chmod(0o640)
    assert program.key(str(path)) == KEY
    path.chmod(0o644)
    with pytest.raises(VmnetError, match=f"{path}: any user may read the key; chmod o= {path}"):
        program.key(str(path))
    for odd, said in (
        (tmp_path, "is no file|Is a directory"),
        (tmp_path / "none", "No such file"),
        (Path("/dev/null"), "is no file"),
    ):
        with pytest.raises(VmnetError, match=said):
            program.key(str(odd))
    path.write_bytes(b"\xff\xfe secret")
    path.chmod(0o600)
    with pytest.raises(VmnetError, match="holds no TSIG key"):
        program.key(str(path))


ANSWER = "Answer:\n;; ->>HEADER<<- opcode: UPDATE, status: {0}, id:  6021\n;; flags: qr; ZONE: 1\n"
OUTPUTS = (
    (ANSWER.format("NOERROR"), "NOERROR", ""),
    ("01-Dec the key 'k1' is too short to be secure\n" + ANSWER.format("NOERROR"), "NOERROR", ""),
    ("update failed: YXDOMAIN\n" + ANSWER.format("YXDOMAIN"), "YXDOMAIN", "YXDOMAIN"),
    (
        "; TSIG error with server: tsig indicates error\nupdate failed: NOTAUTH(BADKEY)\n" + ANSWER.format("NOTAUTH"),
        "NOTAUTH",
        "NOTAUTH(BADKEY)",
    ),
    # Not signed, or by another: it may be from anyone.
    ("; TSIG error with server: expected a TSIG or SIG(0)\n" + ANSWER.format("NOERROR"), "", "TSIG error"),
    ("; Communication with 192.0.2.53#53 failed: timed out\n", "", "communication with 192.0.2.53#53 failed: timed out"),
    ("", "", "nsupdate says nothing"),
    ("Segmentation fault", "", "Segmentation fault"),
    ("\x1b[31m\n", "", "\\x1b[31m"),
)


@pytest.mark.parametrize(("output", "status", "said"), OUTPUTS)
def test_answers(output: str, status: str, said: str) -> None:
    assert nsupdate.status(output) == status
    if said:
        assert said in nsupdate.words(output) or said.lower() in nsupdate.words(output).lower()


# --- what is written down ------------------------------------------------------------------------------------------------


def test_the_database(tmp_path: Path) -> None:
    empty = Names(str(tmp_path / "none"), read_only=True)
    assert empty.all() == {} and not (tmp_path / "none").exists()
    (tmp_path / "y").mkdir()
    (tmp_path / "y/ddns.db").touch()
    assert Names(str(tmp_path / "y"), read_only=True).all() == {}
    made = Names(str(tmp_path / "x"))
    mark = made.mark
    name = Name(WEB1, WEB1.records, 1.5, "no; yes")
    made.put(name)
    assert re.fullmatch("[0-9a-f]{16}", mark) and made.all() == {WEB1.place: name}
    made.close()
    again = Names(str(tmp_path / "x"))
    assert again.mark == mark and again.all() == {WEB1.place: name}
    assert os.stat(tmp_path / "x/ddns.db").st_mode & 0o777 == 0o600
    again.forget([WEB1.place])
    assert Names(str(tmp_path / "x"), read_only=True).all() == {}


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ddns.db").write_text("not a database" * 100)
    for read_only in (True, False):
        with pytest.raises(StoreError, match="stop vmnet-hookd, move the file away, and start it"):
            Names(str(tmp_path), read_only)


# --- the agent -----------------------------------------------------------------------------------------------------------


class Server:
    """A server that has names, as far as prerequisites and updates of ours go. It fails as it is told to."""

    def __init__(self) -> None:
        self.has: dict[str, set[str]] = {}
        self.fails = ""
        self.asked = 0

    def send(self, text: str) -> str:
        assert_sound(text)
        self.asked += 1
        if self.fails:
            return self.fails
        for line in text.splitlines():
            words = line.split()
            if words[0] == "prereq" and (failed := self._failed(words[1], words[2], " ".join(words[3:]), text)):
                return f"update failed: {failed}\n" + ANSWER.format(failed)
        for line in text.splitlines():
            words = line.split()
            if words[:2] == ["update", "add"]:
                self.has.setdefault(words[2], set()).add(" ".join(words[4:]))
            elif words[:2] == ["update", "delete"]:
                gone = " ".join(words[3:])
                left = {value for value in self.has.get(words[2], set()) if value != gone and value.split()[0] != gone}
                self.has[words[2]] = left
        self.has = {name: values for name, values in self.has.items() if values}
        return ANSWER.format("NOERROR")

    def _failed(self, kind: str, name: str, value: str, text: str) -> str:
        there = self.has.get(name, set())
        of_type = {each for each in there if each.split()[0] == value.split(" ")[0]}
        if kind == "nxdomain":
            return "YXDOMAIN" if there else ""
        if kind == "nxrrset":
            return "YXRRSET" if of_type else ""
        wanted = set(re.findall(rf"(?m)^prereq yxrrset {re.escape(name)} ({value.split()[0]} .*)$", text))
        return "" if of_type and (not wanted or of_type == wanted) else "NXRRSET"


class Agent:
    """What the registrar needs of the agent."""

    def __init__(self, config: Config) -> None:
        self.stopping = threading.Event()
        self.nics: list[Nic] = []
        self.config = config
        self.said: list[str] = []
        self.index = SimpleNamespace(subscribe=lambda _: None)
        self.place = self

    def declared(self) -> Config:
        return self.config

    @contextmanager
    def records(self) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(nics=lambda: self.nics)

    def note(self, kind: str, text: str, priority: int = 0) -> None:
        self.said.append(f"{kind}: {text}")

    def count(self, name: str) -> None:
        pass


class Kill(BaseException):
    """A SIGKILL."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    made = Server()
    monkeypatch.setattr(program, "send", lambda text: made.send(text))
    monkeypatch.setattr(program, "key", lambda _: KEY)
    monkeypatch.setattr(registered, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(registrar, "STATE", str(tmp_path / "state"))
    # Its threads are the tests' own calls.
    monkeypatch.setattr(registrar.Lane, "_run", lambda _: None)
    return made


def settle(part: registrar.Registrar) -> None:
    """Do once what is owed."""
    part._turn()
    for lane in part._lanes.values():
        for place, asked in list(lane._owed.items()):
            lane._conclude(place, asked, part.settle(place, asked))


def agent_with(config: Config, *nics: Nic) -> registrar.Registrar:
    agent = Agent(config)
    agent.nics = list(nics)
    return registrar.Registrar(agent)  # type: ignore[arg-type]


def test_laws_of_the_registrar(tmp_path: Path, server: Server) -> None:
    """Twice is once; start and stop leave nothing."""
    config = load(tmp_path, LAB)
    part = agent_with(config, nic())
    settle(part)
    whole, asked = {**server.has}, server.asked
    assert whole["web1.lab.example."] == {"A 192.0.2.10", "AAAA 2001:db8::10"} and len(whole) == 6
    part._changed = True
    settle(part)
    settle(agent_with(config, nic()))
    assert server.has == whole and server.asked == asked
    part = agent_with(config)
    settle(part)
    assert server.has == {} and Names().all() == {}


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("stopping", [False, True])
def test_killed_at_any_step(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, answered: bool, stopping: bool
) -> None:
    """Before the server has the update, or after: the next agent goes on, also if the guest is gone or has another address by
    then."""
    config = load(tmp_path, LAB)
    for step in range(1, 4):
        for later in ((), (nic("web1", "192.0.2.77"),), (nic(),)):
            if stopping:
                settle(agent_with(config, nic()))
            start = server.asked

            def killed(text: str, step: int = step, start: int = start) -> str:
                if server.asked - start == step - 1 and not answered:
                    raise Kill
                output = server.send(text)
                if server.asked - start == step:
                    raise Kill
                return output

            monkeypatch.setattr(program, "send", killed)
            with pytest.raises(Kill):
                settle(agent_with(config, *(() if stopping else (nic(),))))
            monkeypatch.setattr(program, "send", server.send)
            settle(agent_with(config, *later))
            kept = {"web1.lab.example."} if later else set()
            assert {name for name in server.has if name == "web1.lab.example."} == kept
            if later and later[0].addresses == ("192.0.2.77",):
                assert server.has["web1.lab.example."] == {"A 192.0.2.77"} and len(server.has) == 4
            settle(agent_with(config))
            assert server.has == {} and Names().all() == {}


def test_a_server_that_fails(tmp_path: Path, server: Server) -> None:
    """What it says is written down, with the remedy; the next attempts come later and later, and `repair` makes them at once."""
    config = load(tmp_path, LAB)
    part = agent_with(config, nic())
    server.fails = "; Communication with 192.0.2.53#53 failed: timed out\n"
    settle(part)
    (lane,) = part._lanes.values()
    problems = {name.problem for name in Names().all().values()}
    assert problems == {"communication with 192.0.2.53#53 failed: timed out; make 192.0.2.53#53 answer"}
    assert lane._next()[0] is None and 0 < lane._next()[1] <= 20
    for _ in range(12):
        settle(part)
    assert lane._pause == registrar.LAST_SECONDS and len([line for line in part.agent.said if "timed out" in line]) == 1
    server.fails = ""
    lane.retry()
    assert lane._next()[0] is not None
    settle(part)
    assert not lane._owed and server.has["web1.lab.example."]


def test_what_is_in_use(tmp_path: Path, server: Server) -> None:
    config = load(tmp_path, LAB)
    server.has = {"web1.lab.example.": {"TXT mine"}, "10.2.0.192.in-addr.arpa.": {"PTR other.example."}}
    before = {name: set(values) for name, values in server.has.items()}
    settle(agent_with(config, nic("web1", "192.0.2.10")))
    assert {name.problem for name in Names().all().values()} == {IN_USE}
    settle(agent_with(config))
    assert server.has == before and Names().all() == {}


def test_tables_that_can_t_be_used(tmp_path: Path, server: Server) -> None:
    """All names stay: of the table, and of all where a file can't be read."""
    config = load(tmp_path, LAB)
    settle(agent_with(config, nic()))
    whole = {**server.has}
    for broken in ("ddns:lab", ""):
        empty = replace(config, ddns={}, broken={broken: Broken(ConfigError("x"))})
        settle(agent_with(empty, nic()))
        assert server.has == whole
    settle(agent_with(replace(config, ddns={}), nic()))
    assert server.has == {}


def test_names_are_confirmed_now_and_then(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(tmp_path, LAB)
    part = agent_with(config, nic())
    settle(part)
    server.has = {}
    part._changed = True
    settle(part)
    assert server.has == {}
    now = time.time()
    monkeypatch.setattr(registrar.time, "time", lambda: now + registrar.CONFIRM_SECONDS + 1)
    part._changed = True
    server.fails = "; Communication with 192.0.2.53#53 failed: timed out\n"
    settle(part)
    # A server that is away at that time is no difference yet.
    assert all(name.since and not name.problem for name in Names().all().values())
    server.fails = ""
    settle(part)
    assert len(server.has) == 6


def test_nothing_is_declared(tmp_path: Path, server: Server) -> None:
    part = agent_with(load(tmp_path, ""), nic())
    settle(part)
    assert not (tmp_path / "state").exists() and part._names is None


def test_what_check_says(tmp_path: Path, server: Server) -> None:
    config = load(tmp_path, LAB)
    there = [nic(), nic("Web1", "192.0.2.11", number=2)]
    session = SimpleNamespace(config=config, records=SimpleNamespace(nics=lambda: there))
    found = owed.owed(session)  # type: ignore[arg-type]
    assert [drift.what for drift in found if drift.what.startswith("web1")] == [
        f"web1.lab.example is not registered at {SERVER}: {owed.UNTRIED}"
    ]
    part = agent_with(config, *there)
    server.fails = "update failed: REFUSED\n" + ANSWER.format("REFUSED")
    settle(part)
    (drift,) = [each for each in owed.owed(session, "web1") if each.what.startswith("web1")]  # type: ignore[arg-type]
    assert drift.what == f"web1.lab.example is not registered at {SERVER}: REFUSED" and drift.owner == "web1"
    assert drift.remedy == "let the key update A, AAAA, PTR and TXT in lab.example there; then vmnet-hook repair"
    server.fails = ""
    settle(part)
    (drift,) = owed.owed(session)  # type: ignore[arg-type]
    assert (drift.owner, drift.what) == ("Web1", "ddns:lab: web1.lab.example is that of guest web1")
    assert owed.owed(session, "web1") == []  # type: ignore[arg-type]
    assert owed.shown(session)["web1"][0].endswith(f"at {SERVER}: registered")  # type: ignore[arg-type]
    assert json.dumps([*Names().all()])

"""Names of guests are registered at a real DNS server, and removed; whatever happens to the agent and the server meanwhile.

host -- eth9 -- peer, which runs named. Its answers are the proof.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab import frames
from lab.agent import Agent
from lab.domains import Interface, domain_xml
from lab.named import Named
from lab.nodes import Node, wire
from lab.routed import PUBLIC, call, eventually
from lab.single import LAN, Single, routed
from lab.tap import __file__ as TAP

SERVER, OTHER = "10.0.1.53", "10.0.1.54"
ZONES = ("lab.example", "new.example", "2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa")
KEY = "/etc/vmnet-hooks/ddns.key"
DDNS = f"""
[ddns.lab]
server = "{SERVER}"
zone = "lab.example"
reverse = ["2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"]
key = "{KEY}"
networks = ["public"]
"""
SECOND = DDNS.replace("ddns.lab", "ddns.second").replace(SERVER, OTHER).replace(KEY, f"{KEY}2")
PTR4 = "10.2.0.192.in-addr.arpa"
PTR6 = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
NIC, SECOND_NIC = routed(10), routed(11)
ALL = ("192.0.2.10", "2001:db8::10", "web1.lab.example.", "web1.lab.example.")
NONE = ("", "", "", "")
SECONDS = 20


class Lab(Single):
    """The host, with taps for two guests, and the server."""

    def __init__(self) -> None:
        super().__init__(PUBLIC + LAN + DDNS, foreign=False)
        try:
            self.peer.sh(f"ip addr add 10.0.1.254/24 dev eth9; ip addr add {SERVER}/24 dev eth9; ip addr add {OTHER}/24 dev eth9")
            self.named = Named(self.peer, SERVER, *ZONES)
            self.write_key(self.named.key)
            for nic in (NIC, SECOND_NIC):
                self.tap(nic.tap, nic.mac)
        except BaseException:
            self.stack.close()
            raise

    def write_key(self, text: str, mode: int = 0o600, path: str = KEY) -> None:
        self.host.write(path, text)
        self.host.path(path).chmod(mode)

    def found(self, named: Named | None = None) -> tuple[str, ...]:
        """What a server has of web1: A, AAAA, and both PTR records."""
        named = named or self.named
        of = (("web1.lab.example", "A"), ("web1.lab.example", "AAAA"), (PTR4, "PTR"), (PTR6, "PTR"))
        return tuple(named.asked(*each) for each in of)

    def has(self, *wanted: str, named: Named | None = None, timeout: float = SECONDS) -> None:
        assert eventually(lambda: self.found(named) == wanted, timeout), self.found(named)

    def differences(self) -> list[tuple[str, str]]:
        """What `check` says, with the remedies."""
        done = self.host.cli("check", "--json")
        found = [(row["what"], row["remedy"]) for row in json.loads(done.stdout)]
        assert done.returncode == bool(found), done.stderr
        return found

    def says(self, *words: str) -> list[tuple[str, str]]:
        """Wait until a difference has all of the words; return it, or all that there are in vain."""
        found: list[tuple[str, str]] = []

        def is_said() -> bool:
            found[:] = [each for each in self.differences() if all(word in " ".join(each) for word in words)]
            return bool(found)

        assert eventually(is_said, SECONDS), self.differences()
        return found

    def silence(self, address: str = SERVER) -> None:
        """Drop what comes for the server."""
        self.peer.sh(
            "nft add table inet quiet; nft add chain inet quiet in '{ type filter hook input priority 0; }'\n"
            f"nft add rule inet quiet in iifname eth9 ip daddr {address} drop"
        )

    def speak(self) -> None:
        self.peer.run("nft delete table inet quiet")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_a_guest_is_registered_while_it_runs(lab: Lab) -> None:
    other = Interface("52:54:00:bb:00:01", "lan1", bridge="br0")
    lab.tap("lan1", other.mac, bridge="br0")
    with Agent(lab.host) as agent:
        assert (
            f"# the agent registers {PTR4} PTR web1.lab.example. at {SERVER}#53"
            in lab.host.cli("plan", "start", "web1", "--xml", "/dev/stdin", input=xml("web1", NIC)).stdout.splitlines()
        )
        call(lab.host, "web1", "start", NIC)
        call(lab.host, "other", "start", other)
        time.sleep(1)
        assert lab.found() == NONE  # it does not run yet
        call(lab.host, "web1", "started", NIC)
        call(lab.host, "other", "started", other)
        lab.has(*ALL)
        assert lab.differences() == []
        assert lab.named.asked("other.lab.example") == ""
        said = lab.host.cli("status").stdout
        assert f"web1: web1.lab.example A 192.0.2.10, web1.lab.example AAAA 2001:db8::10 at {SERVER}#53: registered\n" in said
        assert lab.host.cli("graph").stdout.count("web1.lab.example") == 1
        plan = lab.host.cli("plan", "stop", "web1").stdout
        assert f"# the agent removes {PTR4} PTR web1.lab.example. at {SERVER}#53" in plan.splitlines()
        lab.stop("web1", NIC)
        lab.has(*NONE)
        assert lab.differences() == [] and agent.errors == []
        assert lab.named.asked("_vmnet.web1.lab.example", "TXT") == lab.named.asked(f"_vmnet.{PTR4}", "TXT") == ""


def test_a_guest_that_is_started_again_at_once(lab: Lab) -> None:
    """Whatever the agent was at meanwhile."""
    with Agent(lab.host) as agent:
        for pause in (0, 0.02, 0.05, 0.1, 0.15, 0.2):
            lab.start("web1", NIC)
            time.sleep(pause)
            lab.stop("web1", NIC)
            time.sleep(pause)
        time.sleep(0.1)
        lab.start("web1", NIC)
        lab.has(*ALL)
        time.sleep(2)
        assert lab.found() == ALL, agent.log
        lab.stop("web1", NIC)
        lab.has(*NONE)
        time.sleep(2)
        assert lab.found() == NONE, agent.log


def xml(name: str, *nics: Interface) -> str:
    return domain_xml(name, *nics, stage="started")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("boot", [False, True], ids=["restart", "boot"])
def test_what_is_owed_outlasts_the_agent(lab: Lab, sig: int, boot: bool) -> None:
    """Started and stopped while no agent runs, and while the server is silent; the agent that comes does what is owed."""
    lab.start("web1", NIC)
    said = lab.differences()[0]
    lab.silence()
    agent = Agent(lab.host).start()
    lab.says("web1.lab.example is not registered", "timed out")
    agent.stop(sig)
    assert said == lab.differences()[0]
    assert said == ("the agent does not run; it tells DNS servers the names of guests", "systemctl restart vmnet-hookd")
    lab.speak()
    with Agent(lab.host):
        lab.has(*ALL)
        assert lab.differences() == []
    lab.silence()
    agent = Agent(lab.host).start()
    lab.stop("web1", NIC)
    lab.says("web1.lab.example is still registered", "timed out")
    agent.stop(sig)
    if boot:
        lab.host.sh("rm -r /run/vmnet-hooks/*")
    assert lab.found() == ALL
    lab.speak()
    with Agent(lab.host):
        lab.has(*NONE)
        assert lab.differences() == []


def test_a_silent_server_delays_nothing(lab: Lab) -> None:
    """Neither hooks nor another server. `repair` has it tried at once."""
    second = Named(lab.peer, OTHER, *ZONES, port=53, key="second", folder="/run/named-second")
    lab.write_key(second.key, path=f"{KEY}2")
    lab.host.config(PUBLIC + LAN + DDNS + SECOND)
    lab.silence()
    with Agent(lab.host) as agent:
        begin = time.monotonic()
        lab.start("web1", NIC)
        assert time.monotonic() - begin < 4
        lab.has(*ALL, named=second, timeout=5)
        (found, *_) = lab.says("web1.lab.example is not registered at 10.0.1.53#53", "timed out")
        assert "make 10.0.1.53#53 answer" in found[1]
        done = lab.host.cli("repair")
        assert done.returncode == 1 and "timed out" in done.stdout
        begin = time.monotonic()
        lab.stop("web1", NIC)
        lab.start("web1", NIC)
        assert time.monotonic() - begin < 4
        time.sleep(15)  # the agent waits longer by now than a test does
        lab.speak()
        done = lab.host.cli("repair")
        assert done.returncode == 0, done.stdout
        lab.has(*ALL, timeout=1)
        assert lab.differences() == [] and agent.errors == []


def test_a_wrong_key(lab: Lab) -> None:
    """The server's own words; and what is wrong with the file. The secret is in neither."""
    good = lab.named.key
    secret = re.search(r'secret "(.*)"', good)[1]
    wrong = {
        good.replace(secret, "A" * 43 + "="): (0o600, "NOTAUTH(BADSIG)"),
        good.replace('"vmnet"', '"other"'): (0o600, "NOTAUTH(BADKEY)"),
        good: (0o644, f"{KEY}: any user may read the key"),
        f"# {secret}\n": (0o600, f"{KEY}: holds no TSIG key"),
    }
    with Agent(lab.host) as agent:
        lab.start("web1", NIC)
        lab.has(*ALL)
        for number, (text, (mode, said)) in enumerate(wrong.items()):
            lab.write_key(text, mode)
            (lab.start if number % 2 else lab.stop)("web1", NIC)
            state = "is not registered" if number % 2 else "is still registered"
            lab.host.cli("repair")
            lab.says(f"web1.lab.example {state}", said, "give 10.0.1.53#53 the same key" if "BAD" in said else "")
            lab.write_key(good)
            assert lab.host.cli("repair").returncode == 0
            lab.has(*(ALL if number % 2 else NONE))
        texts = agent.log + lab.host.cli("status").stdout
        assert secret not in texts and "A" * 43 not in texts
    assert secret.encode() not in lab.host.path("/var/lib/vmnet-hooks/ddns.db").read_bytes()
    assert lab.host.path("/var/lib/vmnet-hooks/ddns.db").stat().st_mode & 0o777 == 0o600


def test_a_wrong_zone(lab: Lab) -> None:
    """What the server has refused is not there, and nothing is owed of it once the table is right."""
    with Agent(lab.host) as agent:
        lab.host.config(PUBLIC + LAN + DDNS.replace("lab.example", "lab.exmaple"))
        lab.start("web1", NIC)
        lab.says("web1.lab.exmaple is not registered", "NOTAUTH")
        lab.host.config(PUBLIC + LAN + DDNS)
        lab.has(*ALL)
        assert eventually(lambda: lab.differences() == []), lab.differences()
        assert agent.errors == []


def test_without_nsupdate(lab: Lab) -> None:
    lab.host.run("mount --bind /dev/null /usr/bin/nsupdate")
    with Agent(lab.host) as agent:
        lab.start("web1", NIC)
        lab.says(
            "web1.lab.example is not registered",
            "nsupdate is not installed",
            "apt install bind9-dnsutils; then vmnet-hook repair",
        )
        assert "nsupdate is not installed; apt install bind9-dnsutils" in agent.log
        lab.host.run("umount /usr/bin/nsupdate")
        assert lab.host.cli("repair").returncode == 0
        lab.has(*ALL)


def test_edits_while_a_guest_runs(lab: Lab) -> None:
    """Another zone, no reverse zones, another server, no table: the old names go, the new ones come. While the table has a
    mistake, all stay."""
    second = Named(lab.peer, OTHER, *ZONES, key="second", folder="/run/named-second")
    lab.write_key(second.key, path=f"{KEY}2")
    with Agent(lab.host):
        lab.start("web1", NIC)
        lab.has(*ALL)
        lab.host.config(PUBLIC + LAN + DDNS.replace("lab.example", "new.example"))
        lab.has("", "", "web1.new.example.", "web1.new.example.")
        assert lab.named.asked("web1.new.example", "AAAA") == "2001:db8::10"
        lab.host.config(PUBLIC + LAN + re.sub("(?m)^reverse.*", "", DDNS))
        lab.has("192.0.2.10", "2001:db8::10", "", "")
        assert lab.named.asked("web1.new.example") == ""
        lab.host.config(PUBLIC + LAN + SECOND)
        lab.has(*NONE)
        lab.has(*ALL, named=second)
        assert lab.differences() == []
        lab.host.config(PUBLIC + LAN + SECOND.replace("second.lab", "x").replace("ttl", "x") + 'ttl = "long"\n')
        time.sleep(4)
        assert lab.found(second) == ALL
        lab.host.config(PUBLIC + LAN)
        lab.has(*NONE, named=second)
        lab.host.config(PUBLIC + LAN + SECOND + "ttl = 60\n")
        lab.has(*ALL, named=second)
        assert " 60 " in re.sub(r"\s+", " ", second.asked("web1.lab.example", whole=True))
    # With the agent started by a configuration that can't be used.
    lab.host.config(PUBLIC + LAN + SECOND + 'ttl = "long"\n')
    with Agent(lab.host):
        time.sleep(4)
        assert lab.found(second) == ALL


def test_names_of_others_are_left_alone(lab: Lab) -> None:
    """Those of the admin, of another guest of this host, and of one of another host."""
    lab.named.update("zone lab.example", "update add web1.lab.example 300 TXT mine")
    with Agent(lab.host):
        lab.start("ns", NIC)
        (found,) = lab.says("ns.lab.example is not registered", "in use there")
        assert "rename the guest, or remove the name there; then vmnet-hook repair" in found[1]
        lab.stop("ns", NIC)
        assert lab.differences() == []
        assert lab.named.asked("ns.lab.example") == "192.0.2.53"
        lab.start("web1", NIC)
        lab.says("web1.lab.example is not registered", "in use there")
        # The remedy.
        lab.named.update("zone lab.example", "update delete web1.lab.example TXT")
        assert lab.host.cli("repair").returncode == 0
        lab.has(*ALL)
        lab.start("Web1", SECOND_NIC)
        (found,) = lab.says("web1.lab.example is that of guest web1")
        assert found[1] == "rename one of the guests" and lab.found() == ALL
        lab.stop("web1", NIC)
        lab.has("192.0.2.11", "2001:db8::11", "", "")
        lab.stop("Web1", SECOND_NIC)
        lab.has(*NONE)
        # Another program has given the name to a machine of its own while the guest ran.
        lab.start("web1", NIC)
        lab.has(*ALL)
        lab.named.update(
            "zone lab.example",
            *("update delete web1.lab.example", "update delete _vmnet.web1.lab.example"),
            "update add web1.lab.example 300 A 192.0.2.99",
        )
        lab.stop("web1", NIC)
        lab.has("192.0.2.99", "", "", "")
        assert lab.differences() == []


HOSTILE = ("x; server 10.9.9.9", "../x", "ns.lab.example", "-", "ä$(id)\n", "a" * 90, "_vmnet", "*", "@")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(lab: Lab, name: str) -> None:
    """A guest gets a host name, or none; the rest of the zone is as it was."""
    lab.host.config(PUBLIC + LAN + re.sub("(?m)^reverse.*", "", DDNS))
    before = dumped(lab.named)
    with Agent(lab.host) as agent:
        lab.start(name, NIC)
        if re.search("[a-zA-Z0-9]", name):
            assert eventually(lambda: len(dumped(lab.named)) == len(before) + 3, SECONDS), dumped(lab.named)
            new = sorted(line.split()[0] for line in set(dumped(lab.named)) - set(before))
            label = re.fullmatch(r"_vmnet\.([a-z0-9-]{1,63})\.lab\.example\.", new[0])[1]
            assert new[1:] == [f"{label}.lab.example."] * 2
        else:
            lab.says("no host name can be made of the guest's name", "rename the guest")
        lab.stop(name, NIC)
        assert eventually(lambda: dumped(lab.named) == before, SECONDS), dumped(lab.named)
        assert agent.errors == []


def dumped(named: Named) -> list[str]:
    """The zone, without its serial."""
    lines = named.node.run(["dig", f"@{named.address}", "-y", named.tsig, "lab.example", "AXFR", "+noall", "+answer"]).stdout
    return sorted({line for line in lines.splitlines() if "SOA" not in line})


class Destination:
    """Another host of the same configuration, which a guest migrates to. It reaches the server by a wire of its own."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.host = host = stack.enter_context(Node("other"))
        host.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        lab.segment.plug(host, "up0", "02:00:00:00:00:bb")
        wire(host, "eth9", lab.peer, "eth8")
        host.sh("ip link set eth9 up; ip addr add 10.0.2.1/24 dev eth9; ip route add default via 10.0.2.254")
        lab.peer.sh("ip link set eth8 up; ip addr add 10.0.2.254/24 dev eth8")
        host.config(PUBLIC + DDNS)
        host.write(KEY, lab.named.key)
        host.path(KEY).chmod(0o600)

    def tap(self) -> None:
        self.qemu = self.host.popen(["/usr/bin/python3", "-IS", TAP, NIC.tap, "speaks"], stdin=-1, stdout=-1)
        assert self.qemu.stdout.readline() == "ready\n"
        self.host.sh(f"ip link set {NIC.tap} address fe{NIC.mac[2:]} up")

    def speaks(self) -> None:
        self.qemu.stdin.write(frames.rarp(NIC.mac).hex() + "\n")
        self.qemu.stdin.flush()
        assert self.qemu.stdout.readline() == "sent\n"


@pytest.mark.parametrize("first", ["source", "destination"])
def test_a_guest_that_migrates(lab: Lab, first: str) -> None:
    """Its names are taken over when it runs at its destination, and not before; and the source, whichever agent comes first, does
    not remove them."""
    with ExitStack() as stack:
        other = Destination(lab, stack)
        source = stack.enter_context(Agent(lab.host))
        lab.start("web1", NIC)
        lab.has(*ALL)
        mark = lab.named.asked("_vmnet.web1.lab.example", "TXT")
        stack.enter_context(Agent(other.host))
        other.tap()
        for operation in ("migrate", "prepare", "start", "started"):
            call(other.host, "web1", operation, NIC)
        time.sleep(1.5)
        assert lab.named.asked("_vmnet.web1.lab.example", "TXT") == mark
        if first == "destination":
            other.speaks()
            assert eventually(lambda: mark != lab.named.asked("_vmnet.web1.lab.example", "TXT"), SECONDS)
            lab.stop("web1", NIC)
            assert eventually(lambda: "is not ours any more: web1.lab.example" in source.log, SECONDS), source.log
        else:
            source.stop(signal.SIGKILL)
            lab.stop("web1", NIC)
            other.speaks()
            assert eventually(lambda: mark != lab.named.asked("_vmnet.web1.lab.example", "TXT"), SECONDS)
            late = stack.enter_context(Agent(lab.host))
            assert eventually(lambda: "is not ours any more: web1.lab.example" in late.log, SECONDS), late.log
        lab.has(*ALL)
        assert lab.differences() == [] and other.host.cli("check").returncode == 0, other.host.cli("check").stdout
        for operation in ("stopped", "release"):
            call(other.host, "web1", operation, NIC)
        lab.has(*NONE)


def test_another_host_s_guest_of_the_same_name(lab: Lab) -> None:
    """The first one has the name, until it stops."""
    with ExitStack() as stack:
        other = Destination(lab, stack)
        stack.enter_context(Agent(lab.host))
        stack.enter_context(Agent(other.host))
        lab.start("web1", NIC)
        lab.has(*ALL)
        nic = Interface(NIC.mac, NIC.tap, "public", ("192.0.2.20", "2001:db8::20"))
        other.tap()
        for operation in ("start", "started"):
            call(other.host, "web1", operation, nic)
        assert eventually(lambda: "in use there" in other.host.cli("check").stdout, SECONDS)
        assert lab.found() == ALL
        lab.stop("web1", NIC)
        lab.has(*NONE)
        assert other.host.cli("repair").returncode == 0
        lab.has("192.0.2.20", "2001:db8::20", "", "")


def test_records_that_were_lost(lab: Lab) -> None:
    """Without what was written down, the agent registers again what runs: it is the same guest. The man page's remedy."""
    with Agent(lab.host):
        lab.start("web1", NIC)
        lab.has(*ALL)
    lab.host.sh("mv /var/lib/vmnet-hooks/ddns.db /var/lib/vmnet-hooks/ddns.db.old")
    with Agent(lab.host) as agent:
        assert eventually(lambda: lab.differences() == [], SECONDS), agent.log
        lab.stop("web1", NIC)
        lab.has(*NONE)


def test_the_example(lab: Lab) -> None:
    text = (Path(__file__).parents[2] / "etc/examples/dynamic-dns.toml").read_text()
    text = text.replace("eth0.222", "up0").replace("198.51.100.53", SERVER)
    lab.named.stop()
    named = Named(lab.peer, SERVER, *re.findall(r"[0-9a-z.-]+\.arpa|lab\.example", text.partition("[ddns")[2]))
    lab.write_key(named.key)
    lab.host.config(text)
    with Agent(lab.host) as agent:
        lab.start("web1", NIC)
        assert eventually(lambda: lab.found(named) == ALL, SECONDS), agent.log
        assert lab.differences() == []

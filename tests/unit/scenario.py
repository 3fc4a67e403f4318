"""A host made of a fake kernel, real records and real configuration files, and guests to test the laws with."""

import io
import os
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fake_kernel import FakeKernel, Killed

from vmnet_hooks.declared import configuration
from vmnet_hooks.engine import Session, apply, check, guests, host, repair
from vmnet_hooks.frontends.front_end import Request
from vmnet_hooks.model.declaration import Config
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.model.objects import Route, Rule, Sysctl
from vmnet_hooks.model.owner import Owner
from vmnet_hooks.model.resource import Resource
from vmnet_hooks.records.store import Store, identity

T = TypeVar("T")
AS_ROOT = "import posix, sys; posix.geteuid = lambda: 0; del sys.argv[0]; exec(open(sys.argv[0]).read())"
"""The program of an interpreter that runs a hook, sys.argv[1:], as root would, whoever runs the tests."""
V4 = 'ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }\n'
V6 = 'ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }\n'
PUBLIC = '[networks.public]\nmode = "routed"\nuplink = "eth1"\ntable = 222\ntable_name = "routed"\n'
ROUTER = (
    '[networks.edge]\nmode = "routed"\nuplink = "eth2"\ntable = 333\nrole = "router+host"\nmasquerade = "eth9"\n'
    'ipv4 = { subnet = "198.51.100.0/24", gateway = "198.51.100.1" }\n'
    'ipv6 = { subnet = "2001:db8:1::/64", gateway = "2001:db8:1::1" }\n'
)
LAN = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
EVERYTHING = PUBLIC + V4 + V6 + ROUTER + LAN


def request(argv: Sequence[str], stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Request:
    """A call as a hook's own process sees it."""
    environ = os.environ if environ is None else environ
    return Request(argv, environ, io.BytesIO(stdin), os.getppid(), lambda: configuration.load())


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def mac(number: int, nic: int = 0) -> str:
    return f"52:54:00:aa:{number:02x}:{nic:02x}"


def guest(number: int, *nics: tuple[str, Sequence[str]], filter: bool = True) -> Domain:
    """Domain dN with taps tN.0, tN.1 …, one NIC for each (network, addresses)."""
    vifs = tuple(Vif(mac(number, i), f"t{number}.{i}", i) for i in range(len(nics)))
    claims = tuple(
        Claim(network, mac(number, i), "", tuple(addresses), filter, f"d{number}: metadata")
        for i, (network, addresses) in enumerate(nics)
    )
    return Domain(f"d{number}", uuid(number), vifs, claims)


@dataclass(frozen=True)
class Saved:
    """A host as it was at some time."""

    kernel: FakeKernel
    toml: str
    records: bytes


SAVED: dict[object, Saved] = {}
"""Hosts by what builds them, see `Build`. Emptied after each test: records age."""

PARSED: dict[str, Config] = {}
"""Configurations by their text. Emptied after each test: a test may register a mode or a kind of its own."""


class Build:
    """A recipe for a host, followed once in a test: every further host is a copy of the first."""

    def build(self, path: Path) -> "Host":
        raise NotImplementedError

    def host(self, path: Path) -> "Host":
        path.mkdir(exist_ok=True)
        if self in SAVED:
            return Host.restored(path, SAVED[self])
        made = self.build(path)
        made.kernel.clear_faults()
        SAVED[self] = made.save()
        return made


def way_out(toml: str) -> str:
    """The link of the host's default route: where guests are to leave, if that is declared."""
    found = re.search(r'^(?:netdev|masquerade|out) = "(.*)"$', toml, re.MULTILINE) if "[networks." in toml else None
    return found[1] if found and found[1] in ("eth1", "eth9") else "eth0"


class Host:
    def __init__(self, path: Path, toml: str = EVERYTHING, **facts) -> None:
        self.path = path
        self._store: Store | None = None
        self.kernel = FakeKernel(**facts)
        for name in ("eth0", "eth1", "eth2", "eth3", "eth9"):
            self.kernel.add_link(name, up=True)
        self.kernel.add_link("br0", "bridge", mtu=1400, address="02:00:00:00:0b:00", up=True)
        # With a port it has a carrier.
        self.kernel.add_link("lan0", up=True, master="br0")
        self.kernel.put(
            # Somebody else's.
            Route(254, "0.0.0.0/0", way_out(toml), "203.0.113.1", 3),
            Route(222, "203.0.113.0/24", "eth0", "", 3),
            Rule(100, "from", "203.0.113.0/24", 7, 4),
            Sysctl("net/ipv4/conf/eth1/forwarding", "1"),
        )
        self.configure(toml)

    def save(self) -> Saved:
        database = self.path / "run" / "state.db"
        return Saved(self.kernel.copy(), self.toml, database.read_bytes() if database.exists() else b"")

    @classmethod
    def restored(cls, path: Path, saved: Saved) -> "Host":
        made = cls.__new__(cls)
        made.path, made.kernel, made._store = path, saved.kernel.copy(), None
        made.configure(saved.toml)
        if saved.records:
            (path / "run").mkdir(exist_ok=True)
            (path / "run" / "state.db").write_bytes(saved.records)
        return made

    def configure(self, toml: str) -> None:
        self.toml = toml
        (self.path / "etc").mkdir(exist_ok=True)
        (self.path / "etc" / "vmnet.toml").write_text(toml)

    def declared(self) -> Config:
        if self.toml not in PARSED:
            PARSED[self.toml] = configuration.load(str(self.path / "etc"))
        return PARSED[self.toml]

    def session(self) -> Session:
        """A fresh process on this host, with the records to itself."""
        return Session(self.declared(), self.kernel, self.store())

    def store(self) -> Store:
        return Store(str(self.path / "run"))

    def kept(self) -> Store:
        """The records: open from one call to the next, until a process is killed, or the file is another one."""
        if self._store and identity(self._store.directory) != self._identity:
            self.close()
        if not self._store:
            self._store = self.store()
            self._identity = identity(self._store.directory)
        return self._store

    def close(self) -> None:
        if self._store:
            self._store.close()
        self._store = None

    def __del__(self) -> None:
        self.close()

    def add_taps(self, domain: Domain) -> None:
        for vif in domain.vifs:
            if vif.ifname not in self.kernel.links:
                self.kernel.add_link(vif.ifname, "tun")

    def remove_taps(self, domain: Domain) -> None:
        for vif in domain.vifs:
            self.kernel.remove_link(vif.ifname)

    # --- each in a process of its own --------------------------------------------------------------------------------

    def plug(self, domain: Domain) -> list[Owner]:
        return self.call(guests.plug, domain, "libvirt")

    def unplug(self, domain: Domain, ifname: str = "") -> list[Owner]:
        return self.call(guests.unplug, domain, ifname)

    def up(self, *names: str, **kw) -> list[Owner]:
        """Returns what it changed; raises why something was not brought up."""
        done = self.call(host.up, names, **kw)
        if done.failed:
            raise done.failed[0]
        return [*done.up, *done.down]

    def down(self, *names: str) -> list[Owner]:
        return self.call(host.down, names).down

    def prepare(self, domain: Domain) -> list[Owner]:
        """Before the taps exist."""

        def call(session: Session) -> list[Owner]:
            networks = [network for _, network in guests.bind(domain, session.config)]
            return host.prepare(session, domain, networks, "libvirt")

        return self.call(call)

    def recover(self) -> None:
        """What the next process that takes the lock does first."""

        def call(session: Session) -> None:
            with session.records.lock():
                apply.recover(session)

        self.call(call)

    def check(self, **kw) -> list:
        return self.call(check.check, **kw)

    def repair(self, **kw) -> list:
        return self.call(repair.repair, **kw).done

    def call(self, function: Callable[..., T], *arguments, **kw) -> T:
        """One call of the engine, as in a process of its own but for the records, which stay open."""
        try:
            return function(Session(self.declared(), self.kernel, self.kept()), *arguments, **kw)
        except Killed:
            self.close()
            raise

    # --- what there is -----------------------------------------------------------------------------------------------

    def records(self) -> dict[str, list]:
        """Every row of every table, and the journal."""
        journal = self.kept().journal()[1]
        db = sqlite3.connect(self.path / "run" / "state.db")
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        dump = {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}
        db.close()
        return {**dump, "journal": journal}

    def everything(self) -> tuple:
        return self.kernel.snapshot(), dict(self.kernel.links), self.records()

    def assert_no_records(self) -> None:
        left = {name: rows for name, rows in self.records().items() if rows}
        assert not left, left

    def claimed(self) -> dict[str, Resource]:
        return self.kept().resources()


def difference(before: dict, after: dict) -> dict:
    return {k: (before.get(k), after.get(k)) for k in {*before, *after} if before.get(k) != after.get(k)}

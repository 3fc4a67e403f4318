"""The registry of front ends: everything that installs a hook agrees with it, and one file and one row make a front end."""

import ast
import io
import os
import re
import shutil
import socket
import subprocess
import sys
from configparser import ConfigParser
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from scenario import Host, guest

from vmnet_hooks import frontends, hook
from vmnet_hooks.agent import server
from vmnet_hooks.declared import configuration
from vmnet_hooks.engine import guests
from vmnet_hooks.frontends import FRONT_ENDS, Row, front_end, hooks, of, xen_diversion
from vmnet_hooks.frontends.front_end import Request, load
from vmnet_hooks.frontends.running import gone
from vmnet_hooks.hook import call
from vmnet_hooks.records import store

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = "usr/lib/vmnet-hooks/hooks"
each_row = pytest.mark.parametrize("row", FRONT_ENDS, ids=lambda row: row.name)


def links(base: str) -> dict[str, str]:
    """What is to be linked by the registry: from where to where."""
    found = {}
    for name, row in hooks().items():
        found |= {link.format(name.rpartition("/")[2]).lstrip("/"): f"{base}/{name}" for link in row.links}
    return found


# --- the rows --------------------------------------------------------------------------------------------------------


@each_row
def test_a_row_agrees_with_itself(row):
    assert set(row.preparing) | set(row.lenient) <= set(row.operations)
    assert bool(row.operations) == bool(row.position) and bool(row.variable) == bool(row.mark)
    assert set(row.served) <= set(row.scripts)
    assert all("{}" in link for link in row.links) or len(row.scripts) == 1


@each_row
def test_its_module_has_a_front_end(row):
    found = load(row)
    assert isinstance(found, front_end.FrontEnd)
    assert bool(row.described) == (found.nics is not front_end.FrontEnd(found.parse).nics)


def test_the_scripts_that_xl_finds_are_all_known():
    there = [name.removeprefix("xen/") for name in hooks() if name.startswith("xen/")]
    assert sorted(xen_diversion.DIVERTED + xen_diversion.UNTOUCHED) == sorted(there)


def test_names_are_unique():
    assert len({row.name for row in FRONT_ENDS}) == len(FRONT_ENDS)
    assert len(hooks()) == sum(len(row.scripts) for row in FRONT_ENDS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/vmnet-hooks/hooks/libvirt/qemu", "libvirt/qemu"),
        ("/etc/libvirt/hooks/qemu", "libvirt/qemu"),
        ("/etc/libvirt/hooks/qemu.d/50-anything", "libvirt/qemu"),
        ("/usr/lib/vmnet-hooks/hooks/qemu/ifup", "qemu/ifup"),
        ("/usr/lib/vmnet-hooks/hooks/xen/network-nat", "xen/network-nat"),
        ("/etc/xen/scripts/vif-bridge", "xen/vif-bridge"),
        ("/etc/xen/scripts/vmnet-network-route", "xen/network-route"),
        ("/etc/xen/scripts/site/vif-nat", "xen/vif-nat"),
        ("/etc/xen/scripts/my-vif-nat", ""),
        ("/etc/xen/scripts/vif-none", ""),
        ("/usr/lib/vmnet-hooks/hooks/run", ""),
        ("/usr/bin/qemu", ""),
        ("", ""),
    ],
)
def test_what_a_path_stands_for(path, name):
    assert of(path) == name


@pytest.mark.parametrize(
    ("name", "environ", "expected"),
    [
        ("libvirt/qemu", b"vif=vif1.0", "dom1"),
        ("qemu/ifup", b"", "dom1"),
        ("xen/vif-bridge", b"vif=vif1.0\0XENBUS_PATH=backend/vif/1/0", "vif1.0"),
        ("xen/vif-bridge", b"vif=\0XENBUS_PATH=backend/vif/1/0", "backend/vif/1/0"),
        ("xen/vif-bridge", b"INTERFACE=vif1.0-emu", ""),
    ],
)
def test_what_the_agent_serves_in_order(name, environ, expected):
    argv = b"/x/hook\0dom1\0start"
    client = server.Client(socket.socket(), 0.0, bytearray(argv + environ), (len(argv), len(environ), 0), name)
    assert server._ordered(hooks()[name], client) == expected
    client.connection.close()


ABOUT_ONE = {
    "cli/files.py": {"libvirt_connection"},
    "cli/guests.py": {"libvirt", "libvirt_connection"},
    "cli/xen_scripts.py": {"xen_diversion"},
    "importing/stanzas.py": {"ifupdown"},
}
"""Commands for one product's guests, scripts or files, and what they need of its front end."""


@pytest.mark.parametrize("path", sorted((ROOT / "vmnet_hooks").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_else_depends_on_one_front_end(path):
    where = str(path.relative_to(ROOT / "vmnet_hooks"))
    if where.startswith("frontends/"):
        return
    names = {row.name for row in FRONT_ENDS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            assert re.split("[/:]", text)[0] not in names, f"{path}:{node.lineno}: {text}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "frontends":
            modules = {alias.name for alias in node.names} if node.module == "frontends" else {node.module.partition(".")[2]}
            of_all = {"front_end", "running", "watch", "FRONT_ENDS", "Row", "hooks", "of"}
            assert modules - of_all <= ABOUT_ONE.get(where, set()), f"{path}:{node.lineno}: {modules}"


# --- what installs them ------------------------------------------------------------------------------------------------


def test_the_wheel_has_its_hooks():
    parser = ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(ROOT / "setup.cfg")
    data = parser["options.data_files"]
    base = "lib/vmnet-hooks/hooks/"
    found = {f"{key.removeprefix(base)}/{os.path.basename(f)}" for key in data if key.startswith(base) for f in data[key].split()}
    assert found == set(hooks())


def test_the_debian_package_has_its_hooks_and_links():
    lines = [line.split() for line in (ROOT / "debian" / "vmnet-hooks.links").read_text().splitlines()]
    found = {target: source for source, target in lines if "/hooks/" in source}
    run = f"{INSTALLED}/run"
    assert found == {**{f"{INSTALLED}/{name}": run for name in hooks()}, **links(INSTALLED)}


@pytest.mark.parametrize("compiler", ["gcc", "no-compiler"])
def test_make_install_has_its_hooks_and_links(tmp_path, compiler):
    """And the client of the hooks, where there is a compiler."""
    words = ["make", "-s", "install", f"DESTDIR={tmp_path}", "PREFIX=/usr", f"PYTHON={sys.executable}", f"CC={compiler}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=60)
    first, source = (tmp_path / INSTALLED / "run").read_text().split("\n", 1), (ROOT / "hooks/run").read_text().split("\n", 1)
    has_client = compiler == "gcc" and shutil.which("gcc") is not None
    assert first == [f"#!/{INSTALLED}/client" if has_client else source[0], source[1]]
    assert (tmp_path / INSTALLED / "client").exists() is has_client and os.access(tmp_path / INSTALLED / "run", os.X_OK)
    there = {str(path.relative_to(tmp_path)): os.readlink(path) for path in tmp_path.rglob("*") if path.is_symlink()}
    expected = {target: f"/{source}" for target, source in links(INSTALLED).items()}
    assert there == {**{f"{INSTALLED}/{name}": "../run" for name in hooks()}, **expected}


# --- one file and one row ------------------------------------------------------------------------------------------------

MODULE = '''
"""A hypervisor that calls `hook NAME OPERATION TAP MAC NETWORK ADDRESS`."""

from pathlib import Path

from vmnet_hooks.errors import InputError, VmnetError
from vmnet_hooks.frontends.front_end import FrontEnd
from vmnet_hooks.model.guest import Action, NicEvent
from vmnet_hooks.model.guest import Claim, Domain, Vif

ACTIONS = {"attach": Action.PLUG, "run": Action.ACTIVATE, "detach": Action.UNPLUG, "again": Action.RECONNECT}


def parse(request):
    _, name, operation, tap, mac, network, *addresses = request.argv
    if not addresses:
        raise InputError(f"{name}: no address")
    claim = Claim(network, mac, addresses=tuple(addresses), source=f"{name}: hook")
    domain = Domain(name, f"lab:{name}", (Vif(mac, tap, id="0"),), (claim,))
    return NicEvent(ACTIONS[operation], "lab", domain, owner=f"{domain.id}/0")


def conclude(event):
    if Path(__file__).with_name("refuses").exists():
        raise VmnetError("the hypervisor has changed its mind")


def failed(request, reason):
    Path(__file__).with_name("told").write_text(reason)


def alive(ids):
    return {domain_id for domain_id in ids if not Path(__file__).with_name("dead").exists()}


FRONT_END = FrontEnd(parse, conclude, failed, alive)
'''


class Lab:
    """A host whose only front end is the one above, and what its hypervisor does."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host = folder, host
        self.guest = guest(1, ("public", ["192.0.2.10"]))
        self.announced: list[tuple[str, str, str]] = []

    def request(self, operation: str, address: str = "192.0.2.10", network: str = "public") -> Request:
        vif = self.guest.vifs[0]
        argv = ["/x/hooks/lab/hook", "d1", operation, vif.ifname, vif.mac, network, address]
        return Request(argv, {}, io.BytesIO(), 1, self.declared)

    def run(self, operation: str, **words: str) -> int | None:
        """The exit status of one call; None if the filter ignores it."""
        request = self.request(operation, **words)
        if not (name := hook.matters(request.argv[0], request.argv)):
            return None
        assert name == "lab/hook"
        self.told.unlink(missing_ok=True)
        status, reason = call.serve(name, request, self)
        assert bool(reason) == self.told.exists()
        return status

    @property
    def told(self) -> Path:
        return self.folder / "told"

    # --- a place -------------------------------------------------------------------------------------------------------

    def declared(self):
        return configuration.load(str(self.host.path / "etc"))

    @contextmanager
    def session(self, _declared=None):
        session = self.host.session()
        with closing(session.records):
            yield session

    @contextmanager
    def records(self):
        with closing(self.host.store()) as records:
            yield records

    def announce(self, calls):
        self.announced += calls

    def explained(self, error):
        return str(error)

    def await_arrival(self, owners):
        assert not owners


@pytest.fixture
def lab(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "lab_hypervisor"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "front_end.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    operations = ("attach", "run", "detach", "again")
    row = Row("lab", "lab_hypervisor.front_end", ("hook",), position=2, operations=operations, lenient=("again",))
    monkeypatch.setattr(frontends, "FRONT_ENDS", (*FRONT_ENDS, row))
    host = Host(tmp_path)
    # The first process on a host makes the records.
    host.store().close()
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run"))
    yield Lab(folder, host)
    for name in [name for name in sys.modules if name.startswith("lab_hypervisor")]:
        del sys.modules[name]


def test_a_front_end_of_ones_own(lab):
    host = lab.host
    host.add_taps(lab.guest)
    before = host.kernel.snapshot()
    assert lab.run("migrate") is None
    assert host.kernel.snapshot() == before and "lab_hypervisor.front_end" not in sys.modules

    event = load(hooks()["lab/hook"]).parse(lab.request("attach"))
    plan = [str(change) for change in host.call(guests.plan_plug, event.domain, event.frontend)]
    assert "ip route add 192.0.2.10/32 dev t1.0 table 222 proto 86" in plan
    assert host.kernel.snapshot() == before

    assert lab.run("attach") == 0
    assert "route 222 192.0.2.10/32" in host.kernel.world and not host.check()
    assert lab.run("run") == 0 and lab.announced
    plugged = host.kernel.snapshot()

    # Somebody removes the guest's route; its hypervisor's daemon comes back.
    del host.kernel.world["route 222 192.0.2.10/32"]
    assert [drift.what for drift in host.check()] == ["route 222 192.0.2.10/32: missing"]
    host.repair()
    assert host.kernel.snapshot() == plugged and not host.check()
    del host.kernel.world["route 222 192.0.2.10/32"]
    assert lab.run("again") == 0 and host.kernel.snapshot() == plugged

    assert lab.run("detach") == 0
    assert host.kernel.snapshot() == before
    host.assert_no_records()


def test_what_it_refuses_changes_nothing(lab):
    lab.host.add_taps(lab.guest)
    before = lab.host.kernel.snapshot()
    assert lab.run("attach", address="no address at all") == 2
    assert "no address at all" in lab.told.read_text()
    assert lab.run("attach", network="none") == 2 and "none" in lab.told.read_text()
    # This one's failure must not reach the hypervisor.
    assert lab.run("again", network="none") == 0
    assert lab.host.kernel.snapshot() == before
    lab.host.assert_no_records()


def test_it_is_asked_who_lives(lab):
    lab.host.add_taps(lab.guest)
    before = lab.host.kernel.snapshot()
    assert lab.run("attach") == 0
    with lab.records() as records:
        owners = records.owners()
    assert [owner.frontend for owner in owners if owner.domain] == ["lab"] and gone(owners) == set()
    (lab.folder / "dead").touch()
    assert gone(owners) == {"lab:d1"}
    assert [drift.remedy for drift in lab.host.check(gone=gone(owners))] == ["vmnet-hook repair"]
    lab.host.repair(gone=gone(owners))
    assert lab.host.kernel.snapshot() == before
    lab.host.assert_no_records()


def test_it_is_undone_wherever_it_fails(lab):
    """At any step of the plug; and after it, by the front end's own word."""
    lab.host.add_taps(lab.guest)
    before = lab.host.everything()
    steps = 0
    while lab.run("attach") if steps else 1:
        assert lab.host.everything() == before
        steps += 1
        lab.host.kernel.clear_faults()
        lab.host.kernel.fail_at = steps
    assert steps > 5
    assert lab.run("detach") == 0 and lab.host.everything() == before
    (lab.folder / "refuses").touch()
    assert lab.run("attach") == 1 and "has changed its mind" in lab.told.read_text()
    assert lab.host.everything() == before

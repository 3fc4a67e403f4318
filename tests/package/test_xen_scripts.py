"""Beside Debian's own xen-utils-common: Xen's scripts are diverted and come back, whatever dpkg does meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import run
from clean_root import CleanRoot, download

pytestmark = pytest.mark.package

SCRIPTS = "/etc/xen/scripts"
DIVERTED = ("vif-bridge", "vif-route", "vif-nat", "network-bridge", "network-route", "network-nat")
PROGRAM = "/usr/sbin/vmnet-hook-run"
# Its scripts are conffiles. What it needs of other packages is for running Xen, except for what its postinst runs.
XEN = ("xen-utils-common", "ucf", "sensible-utils")
BREAKS = """Package: breaker
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: deconfigures vmnet-hooks
Breaks: vmnet-hooks
"""


@pytest.fixture(scope="module")
def xen(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return download(tmp_path_factory.mktemp("xen") / "debs", *XEN)


class Host:
    """The clean root, with Xen's package and then ours."""

    def __init__(self, root: CleanRoot, xen: list[Path], deb: Path):
        self.root, self.deb = root, deb
        self.dpkg("-i", *xen)
        self.before = self.found()
        assert self.before.count("./vif-bridge") == 2
        root.install(deb)
        assert self.found() == self.before

    def dpkg(self, *words: str | Path, check: bool = True) -> str:
        for word in words:
            if isinstance(word, Path):
                shutil.copy(word, self.root.path("/tmp"))
        names = [f"/tmp/{word.name}" if isinstance(word, Path) else word for word in words]
        return self.root.run(["dpkg", "--force-depends", *names], check=check).stdout

    def found(self) -> str:
        """Contents, modes, owners and times of everything in Xen's folder but the links that our package brings."""
        files = "find . -type f | sort | xargs -d '\\n'"
        return self.root.run(f"cd {SCRIPTS}; {files} stat -c '%n %A %U %G %Y' && {files} sha256sum").stdout

    def divert(self) -> None:
        self.root.run(["vmnet-hook", "xen-scripts", "--divert"])
        assert self.is_diverted()

    def undivert(self) -> None:
        self.root.run(["vmnet-hook", "xen-scripts", "--undivert"])
        assert not self.is_diverted()

    def is_diverted(self) -> bool:
        ours = [self.root.run(["readlink", "-e", f"{SCRIPTS}/{name}"], check=False).stdout == f"{PROGRAM}\n" for name in DIVERTED]
        links = [self.root.path(f"{SCRIPTS}/{name}").is_symlink() for name in DIVERTED]
        book = self.root.run("dpkg-divert --list").stdout.count(f"diversion of {SCRIPTS}/")
        assert len({*ours, *links, book == 6, book != 0}) == 1, (ours, links, book)
        return ours[0]

    def status(self, package: str = "vmnet-hooks") -> str:
        return self.root.run(f"dpkg-query -W -f '${{db:Status-Status}}' {package}", check=False).stdout


@pytest.fixture
def host(root: CleanRoot, xen: list[Path], deb: Path) -> Iterator[Host]:
    yield Host(root, xen, deb)


def test_beside_xens_own(host: Host) -> None:
    """Installed, nothing changes for Xen; the list says who answers."""
    listed = dict(line.split()[:2] for line in host.root.run(["vmnet-hook", "xen-scripts"]).stdout.splitlines()[1:])
    assert listed["vif-bridge"] == listed["vif-setup"] == "Xen" and listed["network-bridge"] == "none"
    assert {who for name, who in listed.items() if name.startswith("vmnet-")} == {"vmnet-hooks"} and len(listed) == 14


def test_whose_script_runs(host: Host) -> None:
    """By the name that xl calls; what ours says of a call without a vif is ours alone."""
    for diverted in (False, True):
        if diverted:
            host.divert()
        for name in ("vif-bridge", "vif-route", "vif-nat", "network-bridge", "vmnet-vif-bridge", "vmnet-vif-setup"):
            done = host.root.run([f"{SCRIPTS}/{name}", "online", "type_if=vif"], check=False)
            ours = done.returncode == 2 and done.stdout.startswith("vmnet-hook: ") and done.stdout.count("\n") == 1
            assert ours == (diverted or name.startswith("vmnet-")), (name, done)


def test_divert_upgrades_undivert(host: Host, xen: list[Path]) -> None:
    host.divert()
    diverted = host.found()
    assert [line.replace(".xen", "") for line in diverted.splitlines()] == host.before.splitlines()
    host.dpkg("-i", xen[0])
    assert host.is_diverted() and host.found() == diverted
    host.root.install(host.deb)
    assert host.is_diverted() and host.found() == diverted
    assert host.root.run("dpkg --verify xen-utils-common vmnet-hooks").stdout == ""
    host.undivert()
    assert host.found() == host.before
    assert host.root.run("dpkg --verify xen-utils-common").stdout == ""


@pytest.mark.parametrize("action", ["-r", "-P"])
def test_removal_undiverts(action: str, host: Host) -> None:
    host.divert()
    said = host.dpkg(action, "vmnet-hooks")
    assert f"undivert {SCRIPTS}/vif-bridge\n" in said
    # systemd calls this folder /lib/systemd/network, so dpkg tries to remove it with us.
    assert not [line for line in said.splitlines() if "warning" in line and "/usr/lib/systemd/network" not in line]
    assert not host.is_diverted() and host.found() == host.before
    assert host.root.run(f"find {SCRIPTS} -type l").stdout == ""
    assert host.root.run("dpkg --verify xen-utils-common").stdout == ""
    assert not host.root.path("/run/vmnet-hooks/xen-scripts-diverted").exists()


def test_edits_and_a_newer_xen(host: Host, xen: list[Path], tmp_path: Path) -> None:
    tree, newer = tmp_path / "tree", tmp_path / "newer.deb"
    run(["dpkg-deb", "-R", str(xen[0]), str(tree)], tmp_path)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 99:"))
    for name in ("vif-bridge", "vif-nat"):
        with open(tree / f"etc/xen/scripts/{name}", "a") as script:
            script.write("# newer\n")
    run(["dpkg-deb", "-b", str(tree), str(newer)], tmp_path)
    host.divert()
    with open(host.root.path(f"{SCRIPTS}/vif-bridge.xen"), "a") as script:
        script.write("# the admin's\n")
    edited = host.root.path(f"{SCRIPTS}/vif-bridge.xen").read_text()
    host.dpkg("--force-confdef", "--force-confold", "-i", newer)
    assert host.is_diverted()
    assert host.root.path(f"{SCRIPTS}/vif-bridge.xen").read_text() == edited
    host.dpkg("-r", "vmnet-hooks")
    assert host.root.path(f"{SCRIPTS}/vif-bridge").read_text() == edited
    assert host.root.path(f"{SCRIPTS}/vif-nat").read_text().endswith("# newer\n")
    changed = host.root.run("dpkg --verify xen-utils-common", check=False).stdout
    assert changed.split() == ["??5??????", "c", f"{SCRIPTS}/vif-bridge"], changed


def test_xen_goes_and_comes_back(host: Host, xen: list[Path]) -> None:
    """dpkg leaves diverted conffiles alone when it purges; a link that is not diverted it would follow, to our program."""
    host.divert()
    host.dpkg("-P", "xen-utils-common")
    assert host.is_diverted() and host.root.path(PROGRAM).exists()
    host.root.run(["vmnet-hook", "xen-scripts", "--divert"])
    assert sorted(path.name for path in host.root.path(SCRIPTS).iterdir() if path.is_file() and not path.is_symlink()) == [
        "vif-bridge.xen",
        "vif-nat.xen",
        "vif-route.xen",
    ]
    host.dpkg("-i", xen[0])
    assert host.is_diverted()
    host.dpkg("-P", "vmnet-hooks")
    assert host.found() == host.before


def test_xen_goes_first(host: Host, xen: list[Path]) -> None:
    host.divert()
    host.dpkg("-r", "xen-utils-common")
    host.dpkg("-r", "vmnet-hooks")
    assert [line for line in host.before.splitlines() if "/vif-" in line] == [
        line for line in host.found().splitlines() if "/vif-" in line
    ]
    host.dpkg("-P", "xen-utils-common")
    assert not host.root.path(SCRIPTS).exists()


def test_xen_comes_second(root: CleanRoot, xen: list[Path], deb: Path) -> None:
    root.install(deb)
    root.run(["vmnet-hook", "xen-scripts", "--divert"])
    host = Host.__new__(Host)
    host.root, host.deb = root, deb
    host.dpkg("-i", *xen)
    assert host.is_diverted()
    host.dpkg("-r", "vmnet-hooks")
    assert not host.is_diverted() and host.found().count("./vif-bridge\n") == 1
    assert root.run("dpkg --verify xen-utils-common").stdout == ""


def test_deconfigured_for_a_while(host: Host, tmp_path: Path) -> None:
    """Deconfigured, our hooks may lack what they need, so Xen's own answer; then ours do again."""
    breaker = tmp_path / "breaker"
    (breaker / "DEBIAN").mkdir(parents=True)
    (breaker / "DEBIAN/control").write_text(BREAKS)
    run(["dpkg-deb", "--root-owner-group", "-b", str(breaker), str(tmp_path / "breaker.deb")], tmp_path)
    host.divert()
    said = host.dpkg("--auto-deconfigure", "-i", tmp_path / "breaker.deb", check=False)
    assert host.status() in ("unpacked", "half-configured"), said
    assert not host.is_diverted() and host.found() == host.before
    host.dpkg("-r", "breaker")
    host.dpkg("--configure", "vmnet-hooks")
    assert host.status() == "installed" and host.is_diverted()


def test_a_removal_that_can_not_undivert_is_refused(host: Host) -> None:
    """Xen is never left with links to nothing."""
    host.divert()
    diverted = host.found()
    host.root.run(f"mount --bind {SCRIPTS} {SCRIPTS}; mount -o remount,bind,ro {SCRIPTS}")
    said = host.dpkg("-r", "vmnet-hooks", check=False)
    assert f"vmnet-hook: {SCRIPTS}/vif-bridge: Read-only file system; nothing was changed\n" in said, said
    assert host.status() == "installed"
    host.root.run(f"umount {SCRIPTS}")
    assert host.is_diverted() and host.found() == diverted
    host.dpkg("-r", "vmnet-hooks")
    assert host.found() == host.before

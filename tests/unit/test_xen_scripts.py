"""xen-scripts: our scripts in the place of Xen's own, with the real dpkg-divert on a book of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmnet_hooks import cli
from vmnet_hooks.frontends import xen_diversion
from vmnet_hooks.frontends.xen_diversion import Aside, At, Script, Step

ROOT = Path(__file__).resolve().parents[2]
NAMES = xen_diversion.DIVERTED


class Host:
    """A folder of scripts and dpkg's book of diversions."""

    def __init__(self, path: Path):
        self.scripts, self.book = path / "scripts", path / "dpkg"
        self.scripts.mkdir()
        self.book.mkdir()
        (self.book / "status").touch()
        for name, mode in (("vif-bridge", 0o755), ("vif-route", 0o700), ("vif-nat", 0o755), ("vif-setup", 0o755)):
            (self.scripts / name).write_text(f"#!/bin/sh\n# Xen's {name}\n")
            (self.scripts / name).chmod(mode)

    def __getitem__(self, name: str) -> Path:
        return self.scripts / name

    def state(self) -> tuple[dict[str, tuple], list[str]]:
        files = {}
        for path in self.scripts.iterdir():
            is_link, found = path.is_symlink(), path.lstat()
            text = os.readlink(path) if is_link else path.read_text()
            files[path.name] = (text, found.st_mode, found.st_uid, found.st_gid, 0 if is_link else found.st_mtime_ns)
        return files, self.diversions()

    def diversions(self) -> list[str]:
        return sorted(dpkg_divert("--list").splitlines())

    def run(self, *argv: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli.main, ["xen-scripts", *argv], prog_name="vmnet-hook")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == status, result.output
        return result.output

    def is_diverted(self) -> bool:
        ours = [os.path.realpath(self[name]) == f"{ROOT}/hooks/run" and self[name].is_symlink() for name in NAMES]
        assert len({*ours}) == 1, ours
        assert len(self.diversions()) == (6 if ours[0] else 0)
        assert not [path for path in self.scripts.iterdir() if path.name.startswith(".")]
        return ours[0]


def dpkg_divert(*words: str) -> str:
    return subprocess.run(["dpkg-divert", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def host(tmp_path, monkeypatch):
    assert shutil.which("dpkg-divert"), "needs dpkg-divert: apt-get install dpkg"
    host = Host(tmp_path)
    monkeypatch.setattr(xen_diversion, "DIRECTORY", str(host.scripts))
    monkeypatch.setenv("DPKG_ADMINDIR", str(host.book))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return host


def test_divert_and_undivert(host):
    before = host.state()
    done = host.run("--divert").splitlines()
    assert done[:-2] == [f"divert {host[name]}" for name in NAMES]
    assert "those that run stay as they are" in done[-2] and done[-1].endswith("vmnet-hook xen-scripts --undivert")
    assert host.is_diverted()
    for name in NAMES:
        assert os.readlink(host[name]) == f"{ROOT}/hooks/xen/{name}"
        assert f"diversion of {host[name]} to {host[name]}.xen by vmnet-hooks" in host.diversions()
    for name in ("vif-bridge", "vif-route", "vif-nat"):
        assert host.state()[0][f"{name}.xen"] == before[0][name]
    assert host.state()[0]["vif-setup"] == before[0]["vif-setup"]
    assert len(host.state()[0]) == 10
    assert host.run("--undivert") == "".join(f"undivert {host[name]}\n" for name in NAMES)
    assert host.state() == before


SOURCES = {
    '. "$dir/vif-bridge"': "vif-bridge",
    ". vif-nat": "vif-nat",
    "source /etc/xen/scripts/vif-route": "vif-route",
    '  exec /bin/bash -e "$(dirname "$0")/vif-bridge" "$@"': "vif-bridge",
    "if true; then . ${dir}/vif-bridge; fi": "vif-bridge",
    "sh vif-bridge online": "vif-bridge",
    "# . vif-bridge": "",
    'exec "$dir/vif-bridge" "$@"': "",
    ". vmnet-vif-bridge": "",
    ". vif-bridge.xen": "",
    '. "$dir/vif-common.sh"; echo vif-bridge': "",
    "push vif-bridge": "",
}


@pytest.mark.parametrize("line", SOURCES)
def test_scripts_that_source_a_diverted_one(host, line):
    """They are named, with the line that keeps Xen's."""
    host["mine"].write_text(f"#!/bin/bash\ndir=x\n{line}\n")
    host["notes"].write_text(f"{line}\n")
    host["folder"].mkdir()
    name = SOURCES[line]
    note = f"note: {host['mine']} sources {name}, which is ours now; write {name}.xen there to keep Xen's"
    for _ in range(2):
        out = host.run("--divert").splitlines()
        assert [found for found in out if found.startswith("note")] == ([note] if name else [])
    if name:
        host["mine"].write_text(f"#!/bin/bash\ndir=x\n{line.replace(name, name + '.xen')}\n")
        assert "note" not in host.run("--divert")
        assert host[f"{name}.xen"].read_text().endswith(f"# Xen's {name}\n")


def test_twice_is_no_change(host):
    assert host.run("--undivert") == "undivert: nothing to do\n"
    host.run("--divert")
    diverted = host.state()
    assert host.run("--divert") == "divert: nothing to do\n"
    assert host.state() == diverted
    host.run("--undivert")
    before = host.state()
    assert host.run("--undivert") == "undivert: nothing to do\n"
    assert host.state() == before


def test_a_file_of_somebody_else_is_left_alone(host):
    host["network-nat"].write_text("mine")
    before = host.state()
    out = host.run("--divert")
    assert (
        out.startswith(f"warning: {host['network-nat']} is neither Xen's nor ours, and left alone\n")
        and out.count("warning") == 1
    )
    assert host["network-nat"].read_text() == "mine" and len(host.diversions()) == 5
    host.run("--undivert")
    assert host.state() == before


def test_names_that_xen_does_not_have_yet(host):
    """vmnet-hooks may be there before Xen: dpkg then unpacks Xen's scripts beside our links."""
    for name in xen_diversion.SHIPPED:
        host[name].unlink()
    host.run("--divert")
    assert host.is_diverted()
    host["vif-bridge.xen"].write_text("unpacked by dpkg")
    host.run("--undivert")
    assert not host.diversions() and sorted(path.name for path in host.scripts.iterdir()) == ["vif-bridge", "vif-setup"]
    assert host["vif-bridge"].read_text() == "unpacked by dpkg"


def test_a_link_in_the_place_of_xens_script_comes_back(host):
    host["vif-route"].unlink()
    host["vif-route"].symlink_to("vif-bridge")
    before = host.state()
    host.run("--divert")
    host.run("--undivert")
    assert host.state() == before


def test_edits_and_upgrades_of_the_diverted_script_survive(host):
    host.run("--divert")
    host["vif-bridge.xen"].write_text("edited by the admin")
    host["vif-nat.xen"].unlink()  # as dpkg does it
    host["vif-nat.xen"].write_text("of a newer Xen")
    assert host.run("--divert") == "divert: nothing to do\n"
    host.run("--undivert")
    assert host["vif-bridge"].read_text() == "edited by the admin" and host["vif-nat"].read_text() == "of a newer Xen"
    assert not host.is_diverted()


def test_scripts_that_are_gone_are_no_obstacle(host):
    host.run("--divert")
    for name in xen_diversion.SHIPPED:
        host[f"{name}.xen"].unlink()
    host["vif-route"].unlink()
    host.run("--undivert")
    assert sorted(path.name for path in host.scripts.iterdir()) == ["vif-setup"] and not host.diversions()


def test_the_folder_is_gone(host):
    host.run("--divert")
    shutil.rmtree(host.scripts)
    host.run("--undivert")
    assert not host.diversions()
    assert "does not exist; install Xen's tools first" in host.run("--divert", status=1)


@pytest.mark.parametrize("lost", ["link", "diversion"])
def test_half_of_it_is_lost(lost, host):
    """Somebody removed our link, or the diversion, by hand."""
    before = host.state()
    host.run("--divert")
    diverted = host.state()
    for again, expected in (("--divert", diverted), ("--undivert", before)):
        if lost == "link":
            host["vif-bridge"].unlink()
        else:
            dpkg_divert("--package", "vmnet-hooks", "--no-rename", "--remove", str(host["vif-bridge"]))
        assert host.run().count("is half diverted; run xen-scripts --divert or --undivert again") == 1
        host.run(again)
        assert host.state() == expected


def test_a_link_of_another_installation_is_renewed(host):
    host.run("--divert")
    diverted = host.state()
    host["vif-bridge"].unlink()
    host["vif-bridge"].symlink_to("/nonexistent/lib/vmnet-hooks/hooks/xen/vif-bridge")
    assert "vif-bridge            none" in host.run()
    assert host.run("--divert") == f"divert {host['vif-bridge']}\n"
    assert host.state() == diverted


def test_a_script_that_took_our_place_stays(host):
    host.run("--divert")
    host["vif-bridge"].unlink()
    host["vif-bridge"].write_text("the admin's")
    kept = host.state()
    assert "vif-bridge.xen is in the way of" in host.run("--divert", status=1)
    assert host.state() == kept
    out = host.run("--undivert")
    assert f"warning: {host['vif-bridge']} is not ours and stays; Xen's own stays at {host['vif-bridge']}.xen\n" in out
    assert host["vif-bridge"].read_text() == "the admin's" and "Xen's vif-bridge" in host["vif-bridge.xen"].read_text()
    assert not host.diversions() and not host["vif-nat"].is_symlink()


@pytest.mark.parametrize("name", ["vif-bridge", "vif-nat"])
def test_an_admins_copy_is_in_the_way(name, host):
    """All or nothing, whichever of them it is. A copy that nobody can tell from Xen's is no reason to lose either."""
    shutil.copy2(host[name], host[f"{name}.xen"])
    before = host.state()
    out = host.run("--divert", status=1)
    assert out == f"vmnet-hook: {host[name]}.xen is in the way of {host[name]}; move one of the two away\n"
    assert host.state() == before


def test_a_diversion_of_somebody_else(host):
    """dpkg-divert says no in the middle of it."""
    dpkg_divert("--package", "other", "--no-rename", "--divert", f"{host['vif-nat']}.other", "--add", str(host["vif-nat"]))
    before = host.state()
    out = host.run("--divert", status=1)
    assert out.startswith("vmnet-hook: dpkg-divert: ") and "clashes with" in out and out.count("\n") == 1
    assert host.state() == before
    host.run("--undivert")
    assert host.state() == before


OPERATIONS = ((os, "link"), (os, "symlink"), (os, "rename"), (os, "unlink"), (subprocess, "run"))
COMMANDS = ("--divert", "--undivert")


def watched(host: Host, patch: pytest.MonkeyPatch, number: int, stop) -> list[str]:
    """Calls `stop` instead of the operation of that number. No operation may leave a script of Xen's without an answer,
    nor a link without a diversion."""
    done: list[str] = []

    def wrapped(original, name: str):
        def call(*args, **named):
            done.append(name)
            if len(done) == number:
                stop()
            try:
                return original(*args, **named)
            finally:
                missing = [name for name in xen_diversion.SHIPPED if not host[name].exists()]
                assert not missing, f"{missing} after {done}"
                # dpkg follows a link that it knows no diversion of, and puts or removes files at its end: our program.
                book = (host.book / "diversions").read_text().splitlines() if (host.book / "diversions").exists() else []
                links = [name for name in NAMES if host[name].is_symlink() and str(host[name]) not in book]
                assert not links, f"{links} without a diversion after {done}"

        return call

    for where, name in OPERATIONS:
        patch.setattr(where, name, wrapped(getattr(where, name), name))
    return done


def fail() -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_failure_at_any_operation_takes_back_all(command, host):
    if command == "--undivert":
        host.run("--divert")
    before, number = host.state(), 0
    while True:
        number += 1
        with pytest.MonkeyPatch.context() as patch:
            done = watched(host, patch, number, fail)
            result = CliRunner().invoke(cli.main, ["xen-scripts", command])
        if len(done) < number:
            break
        assert result.exit_code == 1 and result.output.count("\n") == 1, (done, result.output, result.exception)
        assert "Read-only file system" in result.output
        assert host.state() == before, done
    assert result.exit_code == 0 and number > 19 and host.is_diverted() == (command == "--divert")


def killed(host: Host, command: str, number: int) -> bool:
    """Whether the process got so far as to be killed there."""
    child = os.fork()
    if not child:
        status = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                watched(host, patch, number, lambda: os._exit(9))
                host.run(command)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "see the child's own output"
    return status == 9


@pytest.mark.parametrize("then", COMMANDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_operation(command, then, host):
    """Either goes on from there; and the list says so, unless the kill came too early or too late to matter."""
    before = host.state()
    host.run("--divert")
    diverted, number, told = host.state(), 1, 0
    if command == "--divert":
        host.run("--undivert")
    while killed(host, command, number):
        told += "is half diverted" in host.run()
        host.run(then)
        assert host.state() == (diverted if then == "--divert" else before), number
        host.run("--undivert" if command == "--divert" else "--divert")
        number += 1
    assert number > 19 and told > 5


def test_killed_and_then_xen_is_installed_again(host):
    """dpkg knew of the diversion already, and put Xen's script where it belongs."""
    before, number = host.state(), 1
    while killed(host, "--divert", number):
        for path in (host[name] for name in xen_diversion.SHIPPED):
            if any(f" {path} to " in line for line in host.diversions()):
                new = host[f"{path.name}.dpkg-new"]
                shutil.copy2(path if before[0][path.name][1] == path.lstat().st_mode else f"{path}.xen", new)
                new.rename(f"{path}.xen")
        host.run("--divert" if number % 2 else "--undivert")
        host.run("--undivert")
        assert host.state() == before, number
        number += 1
    assert number > 20


def rows(host: Host) -> dict[str, tuple[str, str]]:
    return {row["script"]: (row["answers"], row["path"]) for row in json.loads(host.run("--json"))}


def test_who_answers(host):
    host["network-route"].write_text("mine")
    for name in (*NAMES, "vif-setup"):
        host[f"vmnet-{name}"].symlink_to(ROOT / "hooks/xen" / name)
    found = rows(host)
    assert list(found) == [*NAMES, "vif-setup", *(f"vmnet-{name}" for name in (*NAMES, "vif-setup"))]
    assert found["vif-bridge"] == ("Xen", str(host["vif-bridge"]))
    assert found["network-bridge"] == ("", "") and found["network-route"] == ("another", str(host["network-route"]))
    assert found["vmnet-vif-setup"] == ("vmnet-hooks", f"{ROOT}/hooks/xen/vif-setup")
    host.run("--divert")
    diverted = rows(host)
    for name in NAMES:
        assert name == "network-route" or diverted[name] == ("vmnet-hooks", f"{ROOT}/hooks/xen/{name}")
    assert {name: diverted[name] for name in found if name == "network-route" or name not in NAMES} == {
        name: found[name] for name in found if name == "network-route" or name not in NAMES
    }
    lines = host.run().splitlines()
    assert lines[0].split() == ["SCRIPT", "ANSWERS", "PATH"] and len(lines) == 15


@pytest.mark.parametrize(
    "text", ['XEN_SCRIPT_DIR="{0}"\n', "XEN_SCRIPT_DIR={0}\nXEN_LOCK_DIR=/x\n", "XEN_SCRIPT_DIR=/old\nXEN_SCRIPT_DIR='{0}/'\n"]
)
def test_another_folder(text, host, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "vif-bridge").write_text("Xen's")
    before = host.state()
    host["hotplugpath.sh"].write_text(text.format(other))
    host.run("--divert")
    assert (other / "vif-bridge").is_symlink() and (other / "vif-bridge.xen").read_text() == "Xen's"
    assert rows(host)["vif-bridge"] == ("vmnet-hooks", f"{ROOT}/hooks/xen/vif-bridge")
    # Undone even if nothing says any more where it was.
    host["hotplugpath.sh"].unlink()
    host.run("--undivert")
    assert [path.name for path in other.iterdir()] == ["vif-bridge"] and (other / "vif-bridge").read_text() == "Xen's"
    assert host.state() == before


@pytest.mark.parametrize("value", ["scripts", '"$prefix/scripts"', '""', "/etc/xen; id"])
def test_a_folder_that_can_not_be(value, host):
    host.run("--divert")
    host["hotplugpath.sh"].write_text(f"XEN_SCRIPT_DIR={value}\n")
    assert "hotplugpath.sh: XEN_SCRIPT_DIR=" in host.run("--divert", status=2)
    host.run("--undivert")
    assert not host.is_diverted()


@pytest.mark.parametrize(
    ("package", "hooks"),
    [
        ("usr/lib/python3/dist-packages", "usr/lib/vmnet-hooks/hooks"),
        ("usr/local/lib/vmnet-hooks", "usr/local/lib/vmnet-hooks/hooks"),
        ("usr/local/lib/python3.11/dist-packages", "usr/local/lib/vmnet-hooks/hooks"),
        ("venv/lib/python3.11/site-packages", "venv/lib/vmnet-hooks/hooks"),
    ],
)
def test_each_installation_has_hooks_of_its_own(package, hooks, host, tmp_path, monkeypatch):
    """.deb, make install, pip."""
    other = tmp_path / "elsewhere"
    (other / package / "vmnet_hooks").mkdir(parents=True)
    monkeypatch.setattr(xen_diversion, "__file__", str(other / package / "vmnet_hooks/frontends/xen_diversion.py"))
    before = host.state()
    assert host.run("--divert", status=1).endswith("is not installed with this program; reinstall vmnet-hooks\n")
    assert host.state() == before
    shutil.copytree(ROOT / "hooks/xen", other / hooks / "xen")  # copies: a wheel holds no links
    host.run("--divert")
    assert {os.readlink(host[name]) for name in NAMES} == {f"{other / hooks}/xen/{name}" for name in NAMES}
    shutil.rmtree(other)
    host.run("--undivert")
    assert host.state() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_without_dpkg(command, host, monkeypatch, tmp_path):
    before = host.state()
    monkeypatch.setenv("PATH", str(tmp_path))
    out = host.run(command, status=1)
    assert out == "vmnet-hook: no dpkg-divert: not a Debian system; name our scripts in xl.cfg instead: script=vmnet-vif-bridge\n"
    assert rows(host)["vif-bridge"][0] == "Xen"
    monkeypatch.undo()
    assert {path.name for path in host.scripts.iterdir()} == set(before[0])


@pytest.mark.parametrize("command", COMMANDS)
def test_who_is_not_root_is_told(command, host, monkeypatch):
    before = host.state()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert host.run(command, status=1) == "vmnet-hook: not root: Xen's scripts can't be diverted; use sudo\n"
    assert host.state() == before
    assert rows(host)["vif-bridge"][0] == "Xen"


def test_both_at_once(host):
    assert "give one" in host.run("--divert", "--undivert", status=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("aside", Aside)
@pytest.mark.parametrize("at", At)
def test_no_plan_loses_what_is_not_ours(at, aside, registered, name):
    """Whatever is found: what is renamed over, or removed, is a link of ours or is there twice."""
    script = Script(f"/s/{name}", f"/s/{name}.xen", at, aside, registered)
    try:
        steps = xen_diversion.to_divert(script)
    except xen_diversion.ConflictError:
        steps = ()
    for plan in (steps, xen_diversion.to_undivert(script)):
        kept = aside is Aside.SAME
        for step in plan:
            kept |= step is Step.KEEP
            assert step not in (Step.RESTORE, Step.UNLINK) or script.is_ours or at is At.NOTHING
            assert step is not Step.LINK or at is not At.FILE or kept
            assert step is not Step.FORGET or aside is Aside.SAME
            assert step is not Step.KEEP or aside is Aside.NOTHING

"""What a hook and the command line load: an ignored call costs the interpreter, --version and TAB what click costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scenario import AS_ROOT, EVERYTHING

from vmnet_hooks.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "hooks" / "libvirt" / "qemu"
IFUPDOWN = ROOT / "hooks" / "ifupdown" / "vmnet"
HEAVY = frozenset(
    "os site sitecustomize re json enum dataclasses typing collections collections.abc functools contextlib pathlib "
    "tomllib ipaddress ctypes sqlite3 socket struct syslog subprocess logging lxml lxml.etree pyroute2 click libvirt "
    "difflib fcntl inspect ast".split()
)


def loaded(
    *argv: str, hook: Path = HOOK, env: dict[str, str] | None = None, user: int = 0
) -> tuple[subprocess.CompletedProcess, set[str]]:
    call = [str(hook), *argv] if user else ["-c", AS_ROOT, str(hook), *argv]
    command = [sys.executable, "-IS", "-X", "importtime", *call]
    other = user if user and os.geteuid() == 0 else None
    done = subprocess.run(command, input=b"<domain", capture_output=True, timeout=60, env=env, user=other)
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    return done, {line.rpartition("|")[2].strip() for line in lines} - {"imported package"}


@pytest.mark.parametrize("operation", ["restore", "attach", "nonsense", ""])
def test_an_ignored_call_loads_next_to_nothing(operation):
    done, modules = loaded("dom1", operation, "begin", "-")
    assert done.returncode == 0 and done.stdout == b""
    assert modules & HEAVY == set()
    mine = {m for m in modules if m.startswith("vmnet_hooks")}
    assert mine == {"vmnet_hooks", "vmnet_hooks.hook", "vmnet_hooks.frontends"}
    # Ours, and what the interpreter loads by itself.
    bare = subprocess.run([sys.executable, "-IS", "-X", "importtime", "-c", "pass"], capture_output=True)
    base = {line.rpartition("|")[2].strip() for line in bare.stderr.decode().splitlines()}
    assert len(modules - base - mine) <= 5, sorted(modules - base - mine)


@pytest.mark.parametrize("operation", ["prepare", "start", "started", "stopped", "release", "reconnect"])
def test_a_users_own_guest_is_none_of_ours(operation):
    """qemu:///session runs the system's hooks as the user."""
    done, modules = loaded("dom1", operation, "begin", "-", user=65534)
    assert (done.returncode, done.stdout, modules & HEAVY) == (0, b"", set())
    assert {m for m in modules if m.startswith("vmnet_hooks")} == {"vmnet_hooks", "vmnet_hooks.hook", "vmnet_hooks.frontends"}


@pytest.mark.parametrize("environ", [{}, {"IF_IP_ROUTING_TABLE": ""}, {"ADDRFAM": "meta", "IFACE": "--all", "IF_ADDRESS": "::1"}])
def test_a_stanza_that_is_none_of_ours_loads_next_to_nothing(environ):
    done, modules = loaded(hook=IFUPDOWN, env=environ)
    assert done.returncode == 0 and done.stdout == b""
    assert modules & HEAVY == set()
    assert {m for m in modules if m.startswith("vmnet_hooks")} == {"vmnet_hooks", "vmnet_hooks.hook", "vmnet_hooks.frontends"}


def test_a_stanza_that_is_refused_does_not_load_the_kernel():
    environ = {"IF_IP_ROUTING_TABLE": "222", "IFACE": "eth1", "ADDRFAM": "inet", "MODE": "start"}
    done, modules = loaded(hook=IFUPDOWN, env=environ)
    assert done.returncode == 2 and b"iface eth1 inet: ip-gateway: missing" in done.stderr
    assert not {m for m in modules if m.startswith(("pyroute2", "lxml", "click", "sqlite3"))}


def test_a_call_that_matters_loads_more():
    """So that the test above is known to look at the right thing."""
    done, modules = loaded("dom1", "start", "begin", "-")
    assert done.returncode == 2
    assert {"lxml.etree", "re", "vmnet_hooks.errors"} <= modules
    assert not {m for m in modules if m.startswith("pyroute2")}, "refused before the kernel's library is loaded"


DRIVER = """
import io, posix, sys
sys.path.insert(0, sys.argv[1])
posix.geteuid = lambda: 0
from vmnet_hooks.declared import configuration
from vmnet_hooks.records import store
configuration.DIRECTORY, store.DIRECTORY = sys.argv[2] + "/etc", sys.argv[2] + "/run"
from vmnet_hooks.hook import matters
sys.stdin = io.TextIOWrapper(io.BytesIO(open(sys.argv[4], "rb").read()))
argv = [sys.argv[1] + "/hooks/libvirt/qemu", "dom1", sys.argv[3], "begin", "-"]
status = 0
if name := matters(argv[0], argv):
    from vmnet_hooks.hook.call import handle
    status = handle(name, argv)
print(status, *sorted(m for m in sys.modules if m in sys.argv[5].split() or m.startswith("vmnet_hooks.")))
"""
PLAIN = (
    "<domain><name>dom1</name><devices><interface type='network'>"
    "<mac address='52:54:00:aa:00:10'/></interface></devices></domain>"
)


@pytest.mark.parametrize("operation", ["prepare", "start", "started", "stopped", "release", "reconnect"])
def test_a_domain_with_nothing_of_ours_does_not_load_the_kernel(operation, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "vmnet.toml").write_text(EVERYTHING)
    (tmp_path / "xml").write_text(PLAIN)
    command = [
        sys.executable,
        "-I",
        "-c",
        DRIVER,
        str(ROOT),
        str(tmp_path),
        operation,
        str(tmp_path / "xml"),
        "pyroute2 click libvirt ctypes",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    status, *modules = done.stdout.split()
    # `prepare` matters only where a bridge may have to be made before the tap exists.
    assert status == "0" and ("vmnet_hooks.hook.events" in modules) == (operation != "prepare")
    assert not {"pyroute2", "click", "libvirt", "ctypes"} & set(modules)
    assert not [m for m in modules if m.startswith("vmnet_hooks.kernel")]
    assert not (tmp_path / "run").exists(), "no records are made for it"


def test_the_engine_does_without_what_few_guests_need():
    """Kernel, records and all; what plugs in a routed guest, or one on a bridge that is there."""
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from vmnet_hooks import engine; import vmnet_hooks.engine.guests; "
        "engine.edge(); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", command, str(ROOT)], capture_output=True, text=True, timeout=60)
    modules = set(done.stdout.split())
    assert "vmnet_hooks.kernel.linux" in modules, done.stderr
    assert not {"pyroute2", "ctypes", "subprocess", "socket", "configparser", "click", "lxml", "libvirt"} & modules


COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
try:
    from vmnet_hooks.cli import main
    main(prog_name="vmnet-hook")
finally:
    print(*sys.modules, file=sys.stderr)
"""
EDGES = ("vmnet_hooks.kernel", "vmnet_hooks.engine", "vmnet_hooks.frontends.", "pyroute2", "lxml", "libvirt", "ctypes")
CLICK = [sys.executable, "-I", "-c", "import sys, click; print(*sys.modules, file=sys.stderr)"]


def vmnet_hook(*argv: str, tab: str = "") -> tuple[list[str], dict[str, str]]:
    """The command of a call, or of TAB after the words `tab`, and its environment."""
    completion = {"_VMNET_HOOK_COMPLETE": "bash_complete", "COMP_WORDS": tab, "COMP_CWORD": str(tab.count(" "))}
    return [sys.executable, "-I", "-c", COMMAND, str(ROOT), *argv], {"LC_ALL": "C.UTF-8"} | (completion if tab else {})


def loaded_by(command: list[str], env: dict[str, str]) -> tuple[str, set[str]]:
    """What a command prints, and every module that it loads."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize(
    ("argv", "tab", "printed"),
    [
        (("--version",), "", "vmnet-hook, version "),
        (("--help",), "", "\nHost:\n  up           Bring up"),
        ((), "vmnet-hook ", "plain,xen-scripts\n"),
        ((), "vmnet-hook st", "plain,start\nplain,stop\nplain,status\n"),
        ((), "vmnet-hook -", "plain,--version\n"),
    ],
)
def test_version_help_and_completion_of_commands_load_click_and_the_registry(argv, tab, printed):
    output, modules = loaded_by(*vmnet_hook(*argv, tab=tab))
    _, clicks = loaded_by(CLICK, {})
    assert printed in output
    assert {m for m in modules if m.startswith("vmnet_hooks")} == {"vmnet_hooks", "vmnet_hooks.cli", "vmnet_hooks.errors"}
    # syslog, and for --help shutil, by which click asks for the terminal's width.
    foreign = {m for m in modules - clicks if not m.startswith(("vmnet_hooks", "click"))}
    assert len(foreign) <= 15, sorted(foreign)


@pytest.mark.parametrize("words", ["stop ", "status ", "up ", "set d 52:54:00:aa:00:10 --network "])
def test_completion_of_names_does_without_the_edges(words):
    _, modules = loaded_by(*vmnet_hook(tab=f"vmnet-hook {words}"))
    assert not {m for m in modules if m.startswith(EDGES)}
    assert ("vmnet_hooks.records.store" if words in ("stop ", "status ") else "vmnet_hooks.declared.configuration") in modules
    # 79 before commands were loaded lazily; at most 0.6 of that.
    assert len([m for m in modules if m.startswith("vmnet_hooks")]) <= 47


@pytest.mark.parametrize("command", [row.name for row in COMMANDS])
def test_completion_of_options_loads_one_file_of_commands(command):
    output, modules = loaded_by(*vmnet_hook(tab=f"vmnet-hook {command} -"))
    assert "plain,--help\n" in output
    mine = {m for m in modules if m.startswith("vmnet_hooks")}
    assert not {m for m in modules if m.startswith(EDGES)} and len(mine) <= 20, sorted(mine)
    files = {row.file for row in COMMANDS}
    assert {m for m in mine if m.removeprefix("vmnet_hooks.cli.") in files} == {
        f"vmnet_hooks.cli.{row.file}" for row in COMMANDS if row.name == command
    }


def test_version_and_completion_take_little_longer_than_click():
    """In processor time, the least of interleaved runs: more of them where the machine is busy.

    It was 6 times as much when every command was loaded.
    """
    calls = {
        "click": (CLICK, {}),
        "version": vmnet_hook("--version"),
        "help": vmnet_hook("--help"),
        "TAB": vmnet_hook(tab="vmnet-hook "),
        "TAB on a domain": vmnet_hook(tab="vmnet-hook stop "),
        "TAB on a part": vmnet_hook(tab="vmnet-hook up "),
    }
    limits = {"version": 1.6, "TAB": 1.6, "help": 1.8, "TAB on a domain": 3.0, "TAB on a part": 3.0}
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(5):
        for name, (command, env) in list(calls.items()) * 7:
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)]
            _, status, usage = os.wait4(os.posix_spawn(command[0], command, env, file_actions=null), 0)
            assert status == 0, name
            least[name] = min(least[name], usage.ru_utime + usage.ru_stime)
        above = {name: least[name] / least["click"] for name in limits if least[name] > limits[name] * least["click"]}
        if not above:
            break
    assert not above, {name: round(seconds / least["click"], 2) for name, seconds in least.items()}

"""hooks/client.c beside hooks/run: what the agent is told, what comes out, and what the Python program is left to serve, is the
same for both. And what is proper to a program in C: it is built with sanitizers, and fuzzed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_calls import MAX_STDIN, PYTHON, Agent, Call, Listener, Outcome, Place, placed, run, same, table

from vmnet_hooks import __version__, frontends
from vmnet_hooks.frontends import FRONT_ENDS, Row, hooks
from vmnet_hooks.hook import client

HERE = Path(__file__).parent
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SECONDS = 5
"""The fuzzer runs so long here."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    if not shutil.which("gcc"):
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    # A short path: the name of a socket has 107 bytes.
    made = placed(tmp_path_factory.mktemp("client"))
    made.programs = {
        "C": [made.compiled("client", "-O2")],
        "sanitized": [made.compiled("sanitized", *SANITIZED)],
        "Python": [PYTHON, "-IS", str(made.path / "reference")],
    }
    return made


START = Call("libvirt/qemu", (b"dom1", b"start", b"begin", b"-"), stdin=b"<domain/>")
is_root = os.geteuid() == 0
"""libvirt's hook ignores the calls of other users."""


@pytest.fixture
def bridges(place: Place) -> Iterator[Path]:
    yield place.path / "etc"
    for path in (place.path / "etc").rglob("*.toml"):
        path.chmod(0o644)
        path.unlink()


@pytest.mark.parametrize("operation", ["restore", "attach", "nonsense", "", "Start", "start ", "prepare"])
def test_ignored(place, operation):
    outcome = same(place, Call("libvirt/qemu", (b"dom1", operation.encode(), b"begin", b"-"), stdin=b"<"))
    assert outcome == Outcome(0, b"", b"", None)


def test_no_interpreter_is_started(place):
    """For what is ignored or served: the Python program is away meanwhile."""
    program = place.path / "hooks" / "run"
    program.rename(place.path / "away")
    try:
        assert run(place, "C", Call("libvirt/qemu", (b"dom1", b"restore"))).status == 0
        assert run(place, "C", Call("ifupdown/vmnet")).status == 0
        assert run(place, "C", Call("xen/vif-route", (b"online",), agent=Agent((b"5 0\n",)))).status == 5
        assert run(place, "C", Call("xen/vif-route", (b"online",), agent=None)).status == 2, "Python finds no program"
    finally:
        (place.path / "away").rename(program)


def test_what_is_told_and_answered(place):
    outcome = same(place, Call("qemu/ifup", (b"tap0", b"\xff\n"), agent=Agent((b"3 10\n", b"vmnet-", b"hook"))), "C", "sanitized")
    assert (outcome.status, outcome.err) == (3, b"vmnet-hook")
    path, parent = place.hook("qemu/ifup").encode(), os.getpid()
    head = b"vmnet-hooks %b qemu/ifup %d %d 8 0\n" % (__version__.encode(), parent, len(path) + 8)
    assert outcome.told == head + path + b"\0tap0\0\xff\nLC_ALL=C"


ANSWERS = {
    "refused": b"- 0\n",
    "nothing": b"",
    "no line": b"0 0",
    "cut": b"0 5\nvmne",
    "too much": b"0 5\nvmnet-",
    "no number": b"x 0\n",
    "negative": b"-1 0\n",
    "signed": b"+1 0\n",
    "two zeros": b"00 0\n",
    "two spaces": b"0  0\n",
    "a space more": b"0 0 \n",
    "one word": b"0\n",
    "three words": b"0 0 0\n",
    "no status of a process": b"256 0\n",
    "a long number": b"9" * 5000 + b" 0\n",
    "a length of many digits": b"0 " + b"0" * 30 + b"\n",
    "a NUL": b"0\0 0\n",
    "other digits": "٣ 0\n".encode(),
    "too long": b"0 %d\n" % client.MAX_ANSWER + b"x" * client.MAX_ANSWER,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_no_answer(place, answer):
    """The call is served by the Python program, with all of the standard input."""
    outcome = same(place, Call("qemu/ifup", (b"tap0",), agent=Agent((answer,))), "C", "sanitized")
    assert outcome.status == 77 and outcome.out.startswith(b"qemu/ifup [") and outcome.told
    if is_root:
        outcome = same(place, Call(START.name, START.argv, stdin=b"<domain/>" * 5000, agent=Agent((answer,))), "C")
        assert outcome.status == 77 and b" 45000 " in outcome.out and outcome.told.endswith(b"<domain/>" * 5000)


@pytest.mark.parametrize("answer", [b"255 0\n", b"1 3\n\0\xff\n", b"0 65528\n" + b"x" * 65528])
def test_an_answer(place, answer):
    outcome = same(place, Call("xen/vif-bridge", (b"online",), agent=Agent((answer,))), "C", "sanitized")
    status, _, text = answer.partition(b"\n")
    assert (outcome.status, outcome.out, outcome.err) == (int(status.split()[0]), b"", text)


AGENTS = {
    "none": None,
    "hangs up": Agent((), reads=0),
    "hangs up at once, with an answer": Agent((b"- 0\n",), reads=0),
    "hangs up in the middle": Agent((), reads=1000),
    "hangs": Agent((), hangs=True),
    "hangs after a part": Agent((b"0 5\nvm",), hangs=True),
    "does not read": Agent((), reads=0, hangs=True),
    "reads no more": Agent((), reads=0, hangs=True, is_deaf=True),
    "dribbles": Agent((b"0",) + (b" ",) * 20, pause=0.1),
}


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS.keys())
def test_an_agent_that_does_not_answer(place, agent):
    """One limit for all of the exchange: 1 s here."""
    call = (
        Call(START.name, START.argv, stdin=b"x" * (MAX_STDIN - 1), agent=agent)
        if is_root
        else Call("qemu/ifup", (b"tap0",), agent=agent)
    )
    begin = time.monotonic()
    outcomes = [run(place, program, call) for program in ("sanitized", "Python")]
    assert time.monotonic() - begin < 5
    assert {(outcome.status, outcome.out) for outcome in outcomes} == {(77, outcomes[0].out)}
    assert not is_root or b" %d " % (MAX_STDIN - 1) in outcomes[0].out


@pytest.mark.skipif(not is_root, reason="needs another user; run as root")
def test_other_users(place):
    """Of the agent: it is told nothing. Of the hook: it does nothing, not even by Python, which can't read the program here."""
    outcome = same(place, Call("qemu/ifup", (b"tap0",), agent=Agent((b"0 0\n",), user=65534)), "C", "sanitized")
    assert (outcome.status, outcome.told) == (77, b"")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(place.programs["C"][0], folder)
        statuses = [
            subprocess.run([program, f"/x/hooks/{name}", *words], user=65534, stderr=subprocess.DEVNULL).returncode
            for name, *words in (("libvirt/qemu", "dom1", "start"), ("libvirt/qemu", "dom1", "stopped"), ("qemu/ifup", "tap0"))
        ]
    assert statuses == [0, 0, 2]


@pytest.mark.skipif(not is_root, reason="libvirt's hook ignores the calls of other users; run as root")
@pytest.mark.parametrize("size", [0, 1, MAX_STDIN - 1, MAX_STDIN, MAX_STDIN + 1, 3 * MAX_STDIN])
def test_standard_input(place, size):
    """More than an agent takes is not sent; the Python program is given enough to see that it is too much."""
    outcome = same(place, Call(START.name, START.argv, stdin=b"x" * size, agent=Agent((b"0 0\n",))), "C", "sanitized")
    assert outcome.status == (0 if size < MAX_STDIN else 77)
    assert b" %d " % MAX_STDIN in outcome.out or size < MAX_STDIN
    assert size >= MAX_STDIN or outcome.told.endswith(b"LC_ALL=C" + b"x" * size)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2), (0, 2)])
@pytest.mark.parametrize("name", ["qemu/ifup", "libvirt/qemu"])
def test_closed_streams(place, closed, name):
    """A socket becomes a standard stream then."""
    argv = START.argv if name == START.name else (b"tap0",)
    for answer in (b"- 0\n", b"6 3\nabc"):
        call = Call(name, argv, closed=closed, agent=Agent((answer,)))
        expected, outcome = run(place, "Python", call), run(place, "C", call)
        assert (outcome.status, outcome.out, outcome.err) == (expected.status, expected.out, expected.err)


@pytest.mark.skipif(not is_root, reason="libvirt's hook ignores the calls of other users; run as root")
@pytest.mark.parametrize("files", [4, 5])
def test_few_descriptors(place, files):
    """They are enough for giving the input back."""
    listener = Listener(place.agent, Agent((b"- 0\n",)))
    command = ["prlimit", f"--nofile={files}", *place.programs["C"], place.hook(START.name), *START.argv]
    # Python itself starts with more.
    script = place.path / "hooks" / "run"
    kept = script.read_text()
    script.write_text("import os\nprint(len(os.read(0, 1 << 20)))\n")
    done = subprocess.run(command, input=b"x" * 5000, capture_output=True, env={"LC_ALL": "C"})
    script.write_text(kept)
    listener.close()
    assert (done.stdout, listener.was_asked) == (b"5000\n", True), done


def test_a_reader_that_is_gone(place):
    """Of the text: the status is that of the answer."""
    for program in ("C", "Python"):
        listener = Listener(place.agent, Agent((b"4 3\nabc",)))
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*place.programs[program], place.hook("qemu/ifup"), "tap0"], stderr=writing, env={"LC_ALL": "C"})
        os.close(writing)
        listener.close()
        assert done.returncode == 4, program


@pytest.mark.parametrize(
    "environ",
    [(), (b"A=1", b"A=2", b"AB=3", b"A"), (b"=x", b"=y", b"=", b"x"), tuple(b"V%d=%d" % (n, n) for n in range(1020))],
    ids=["none", "twice", "no name", "many"],
)
def test_environment(place, environ):
    call = Call("qemu/ifup", (b"tap0",), (b"LC_ALL=C", *environ))
    assert same(place, call, "C", "sanitized").told


def test_too_many_variables_or_too_long_ones(place):
    """The Python program serves such a call, and does not ask the agent."""
    for environ in (tuple(b"V%d=" % n for n in range(1025)), tuple(b"V%d=" % n + b"x" * 100_000 for n in range(12))):
        outcome = run(place, "C", Call("qemu/ifup", (b"tap0",), (b"LC_ALL=C", *environ)))
        assert outcome.status == 77 and outcome.told is None


def test_many_arguments(place):
    argv = tuple(b"%d" % n for n in range(20_000))
    same(place, Call("qemu/ifup", argv), "C", "sanitized")
    same(place, Call("qemu/ifup", argv, agent=None), "C", "sanitized")


# --- which calls matter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", FRONT_ENDS, ids=lambda row: row.name)
def test_every_operation_and_variable(place, row):
    """With an agent that serves, and without."""
    for script in row.scripts:
        name = f"{row.folder}/{script}"
        for operation in (*row.operations, "none", None):
            argv = () if operation is None else (*[b"x"] * (row.position - 1), operation.encode())
            for environ in ((), *([(row.variable + b"=",), (row.variable + b"=1",), (row.variable,)] if row.variable else ())):
                same(place, Call(name, argv, (b"LC_ALL=C", *environ)))
        same(place, Call(name, agent=None))


def test_a_mark(place):
    """What an earlier call has set up is taken down, also if the stanza is not ours any more."""
    mark = place.path / "run" / "ifupdown:eth1-inet"
    environ = (b"LC_ALL=C", b"IFACE=eth1", b"ADDRFAM=inet")
    assert same(place, Call("ifupdown/vmnet", (), environ)).status == 0
    mark.touch()
    assert same(place, Call("ifupdown/vmnet", (), environ)).status == 77
    assert same(place, Call("ifupdown/vmnet", (), (b"LC_ALL=C", b"IFACE=" + b"x" * 5000))).status == 0
    assert same(place, Call("ifupdown/vmnet", (), (*environ, b"IFACE=eth2"))).status == 77, "the first counts"
    mark.unlink()


CONFIGURATIONS = {
    "none": ({}, False),
    "bridges": ({"vmnet.toml": "[bridges.br0]"}, True),
    "an uplink": ({"vmnet.toml": 'mode = "bridged"\nuplink = "eth0"'}, True),
    "in two files": ({"vmnet.toml": "bridged", "conf.d/a.toml": "uplink"}, False),
    "in another file": ({"vmnet.toml": "", "conf.d/a.toml": "x" * 70_000 + "bridges"}, True),
    "hidden": ({"conf.d/.a.toml": "bridges"}, True),
    "routed": ({"vmnet.toml": 'mode = "routed"\nuplink = "eth0"'}, False),
}


@pytest.mark.skipif(not is_root, reason="libvirt's hook ignores the calls of other users; run as root")
@pytest.mark.parametrize(("files", "matters"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_prepare(place, bridges, files, matters):
    for name, text in files.items():
        (bridges / name).write_text(text)
    outcome = same(place, Call(START.name, (b"dom1", b"prepare", b"begin", b"-")), "C", "sanitized")
    assert bool(outcome.told) is matters
    folder = bridges / "conf.d" / "folder.toml"
    folder.mkdir()
    assert same(place, Call(START.name, (b"dom1", b"prepare", b"begin", b"-"))).told, "what can't be read may declare one"
    folder.rmdir()


@pytest.mark.parametrize(
    "link", ["hooks/qemu.d/50-x", "scripts/vmnet-vif-route", "hooks/qemu", "x/y", "scripts-4/vif-nat", "qemu/ifup"]
)
@pytest.mark.parametrize("target", ["libvirt/qemu", "qemu/ifdown", "xen/vif-bridge", "run"])
def test_names(place, tmp_path, link, target):
    """By links from elsewhere, by copies, absolute or relative; and when no front end has the name."""
    path = tmp_path / link
    path.parent.mkdir(parents=True)
    path.symlink_to(place.hook(target))
    (path.parent / "second").symlink_to(path.name)
    (path.parent / "third").symlink_to(os.path.relpath(place.hook(target), path.parent))
    for each in (path, path.parent / "second", path.parent / "third"):
        same(place, Call(str(each), (b"dom1", b"start")))
        same(place, Call(str(each), (b"dom1", b"restore"), agent=None))
    path.unlink()
    path.write_text("")
    same(place, Call(str(path), (b"dom1", b"start")), "C", "sanitized")


def test_a_relative_path(place):
    """The same call, which Python serves."""
    os.chdir(place.path)
    done = [
        subprocess.run([*place.programs[program], "hooks/qemu/ifup", "tap0"], capture_output=True, env={"LC_ALL": "C"})
        for program in ("C", "Python")
    ]
    assert [(each.returncode, each.stdout) for each in done] == [(77, done[0].stdout)] * 2


def test_one_row_is_enough(place, tmp_path, monkeypatch):
    """For a front end of one's own: the table is made of the registry alone."""
    row = Row("lab", "nowhere", ("hook",), position=2, operations=("attach",), served=("hook",), places=("/lab*.d/{}",))
    monkeypatch.setattr(frontends, "FRONT_ENDS", (*FRONT_ENDS, row))
    other = placed(tmp_path / "p")
    other.programs = {"C": [other.compiled("client")]}
    (tmp_path / "lab-1.d").mkdir()
    (tmp_path / "lab-1.d" / "hook").touch()
    for path in ("lab/hook", str(tmp_path / "lab-1.d" / "hook")):
        assert run(other, "C", Call(path, (b"x", b"detach"))) == Outcome(0, b"", b"", None)
        outcome = run(other, "C", Call(path, (b"x", b"attach"), agent=Agent((b"9 0\n",))))
        assert outcome.status == 9 and outcome.told.split()[2] == b"lab/hook"


def test_the_table_says_what_the_registry_says():
    text = table.table("/x/hooks/run")
    assert f'#define VERSION "{__version__}"\n' in text and f"#define MAX_STDIN {client.MAX_STDIN}\n" in text
    rows = [line.strip() for line in text.partition("HOOKS[] = {\n")[2].partition("};")[0].splitlines()]
    assert len(rows) == len(hooks())
    for line, (name, row) in zip(rows, hooks().items(), strict=True):
        found = json.loads(
            line.rstrip(",").replace("(const char *const[])", "").replace("NULL", "null").replace("{", "[").replace("}", "]")
        )
        served = name.rpartition("/")[2] in row.served
        lists = [[*words, None] for words in (row.operations, row.preparing, [name.decode() for name in row.mark])]
        assert found == [name, row.name, row.variable.decode(), *lists, row.position, row.of_root, served, row.stdin]
    assert r'"/a \"b\\c/hooks/run"' in table.table(r'/a "b\c/hooks/run')
    for wrong in ("/x/run", "/x/é/hooks/run", "/x\n/hooks/run"):
        with pytest.raises(SystemExit):
            table.table(wrong)


# --- at random ---------------------------------------------------------------------------------------------------------------

WORDS = (
    b"dom1",
    b"start",
    b"started",
    b"prepare",
    b"restore",
    b"-",
    b"",
    b"\xff\xfe",
    b"a b",
    b"x" * 3000,
    b"online",
    b"\n",
    b"=",
)
NAMES = (b"A", b"B", b"IFACE", b"ADDRFAM", b"IF_IP_ROUTING_TABLE", b"vif", b"XENBUS_PATH", b"", b"A B", b"\xff")


def drawn(source: random.Random) -> Call:
    environ = [b"LC_ALL=C"]
    for _ in range(source.choice((0, 3, 10, 200))):
        words = (source.choice(NAMES), source.choice(WORDS))
        environ.insert(source.randint(0, len(environ)), source.choice((b"=", b"=", b"=", b"")).join(words))
    answers = ((b"0 0\n",), (b"1 3\n", b"abc"), *((answer,) for answer in ANSWERS.values()))
    return Call(
        source.choice(list(hooks())),
        tuple(source.choices(WORDS, k=source.choice((0, 1, 2, 3, 4, 30)))),
        tuple(environ),
        bytes(source.choices(b"<domain/> \0\n\xff", k=source.choice((0, 10, 10_000)))),
        source.choice((None, *(Agent(source.choice(answers), source.choice((1 << 30, 1 << 30, 10))) for _ in range(6)))),
    )


@pytest.mark.parametrize("seed", range(4))
def test_calls_at_random(place, seed):
    """An agent that does not read all may see other parts of it, so that is not compared."""
    source = random.Random(seed)
    for _ in range(20):
        call = drawn(source)
        expected, outcome = run(place, "Python", call), run(place, source.choice(("C", "sanitized")), call)
        if call.agent and call.agent.reads < 1 << 30:
            assert (outcome.status, outcome.out, outcome.err) == (expected.status, expected.out, expected.err), call
        else:
            assert outcome == expected, call


def test_it_is_fuzzed(place, tmp_path):
    """Deterministic, with sanitizers; a longer run found nothing more: `client_fuzz SEED SECONDS FOLDER`."""
    text = (place.path / "table.h").read_text()
    (place.path / "table.h").write_text(text.replace(f"MAX_WORDS {client.MAX_WORDS}", "MAX_WORDS 50000"))
    program = place.compiled("fuzz", *SANITIZED, source=HERE / "client_fuzz.c")
    (place.path / "table.h").write_text(text)
    done = subprocess.run([program, "1", str(SECONDS), tmp_path], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("answers "), done.stderr

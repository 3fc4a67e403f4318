"""Replaces Xen's scripts by ours: a diversion of dpkg moves Xen's script to NAME.xen, and NAME becomes a link to ours. The only
file that runs dpkg-divert(1).

xl may run NAME at any time, so NAME must always exist: dpkg-divert only records the diversion (--no-rename), and link(2) and
rename(2) move the files, because rename(2) replaces a file atomically. `divert` and `undivert` complete an earlier call that was
killed half-way.

Names that Xen does not ship any more are diverted too, although there is nothing to move. dpkg may still list a conffile of an
older Xen package, and purging that package follows a link that is not diverted: it would remove our program.
"""

import fcntl
import filecmp
import glob
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from ..errors import ConflictError, InputError, VmnetError, one_line

DIRECTORY = "/etc/xen/scripts"
PACKAGE = "vmnet-hooks"
SHIPPED = ("vif-bridge", "vif-route", "vif-nat")
DROPPED = ("network-bridge", "network-route", "network-nat")
"""Xen does not ship them any more. A file of such a name is the admin's, and is left alone."""
DIVERTED = SHIPPED + DROPPED
UNTOUCHED = ("vif-setup",)
"""Not diverted: it only runs the script that the guest's configuration names."""


_SOURCES = r"^(?!\s*#)(?:.*?[\s;&|({{])??(?:\.|source|\S*\bsh|\S*\bbash|\S*\bdash)[ \t]+[^;\n]*?(?<![\w.-]){}(?![\w.-])"
"""A line of a shell script that sources a script (the name is filled in), or hands it to another shell."""


class Step(Enum):
    REGISTER = "dpkg-divert --add"
    UNREGISTER = "dpkg-divert --remove"
    KEEP = "NAME.xen becomes a second name of NAME"
    LINK = "NAME becomes a link to our script"
    RESTORE = "NAME.xen is renamed to NAME"
    UNLINK = "NAME is removed"
    FORGET = "NAME.xen is removed"


class At(Enum):
    """What exists at the path NAME."""

    NOTHING = ""
    OURS = "a link to our script"
    OLD = "a link to a script of ours that is not this installation's"
    FILE = "anything else"


class Aside(Enum):
    """What exists at the path NAME.xen."""

    NOTHING = ""
    SAME = "what NAME is"
    OTHER = "anything else"


@dataclass(frozen=True)
class Script:
    """The state of a script. `registered` is set if dpkg has our diversion. `target` is the target of NAME, if NAME is a link."""

    path: str
    aside_path: str
    at: At
    aside: Aside
    registered: bool
    target: str = ""

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def is_ours(self) -> bool:
        return self.at in (At.OURS, At.OLD)

    @property
    def is_foreign(self) -> bool:
        return self.at is At.FILE and self.name in DROPPED


def to_divert(script: Script) -> tuple[Step, ...]:
    """Return the steps that make NAME our script. Raise ConflictError."""
    if script.is_foreign:
        return to_undivert(script)
    understood = script.registered and (script.at is At.NOTHING or script.aside is Aside.SAME)
    if script.aside is not Aside.NOTHING and not (script.is_ours or understood):
        raise ConflictError(f"{script.aside_path} is in the way of {script.path}; move one of the two away")
    steps = [] if script.registered else [Step.REGISTER]
    if script.at is At.FILE and script.aside is Aside.NOTHING:
        steps.append(Step.KEEP)
    if script.at is not At.OURS:
        steps.append(Step.LINK)
    return tuple(steps)


def to_undivert(script: Script) -> tuple[Step, ...]:
    """Return the steps that restore the state before `divert`. Files that are not ours are kept: if the admin replaced our link
    by a script, both that script and Xen's own at NAME.xen stay."""
    steps = []
    if script.is_ours:
        steps.append(Step.UNLINK if script.aside is Aside.NOTHING else Step.RESTORE)
    elif script.registered and script.at is At.NOTHING and script.aside is not Aside.NOTHING:
        steps.append(Step.RESTORE)
    elif script.registered and script.aside is Aside.SAME:
        steps.append(Step.FORGET)
    if script.registered:
        steps.append(Step.UNREGISTER)
    return tuple(steps)


def stays(script: Script) -> str:
    """Return a warning about files that `to_undivert` can't restore; "" if there are none."""
    if script.registered and script.at is At.FILE and script.aside is Aside.OTHER:
        return f"{script.path} is not ours and stays; Xen's own stays at {script.aside_path}"
    return ""


def half_done(script: Script) -> bool:
    """Return whether an earlier call was killed half-way, or the files were changed by hand."""
    try:
        return bool(to_divert(script) and to_undivert(script))
    except ConflictError:
        return script.registered


def directory() -> str:
    """Return the folder in which Xen looks up scripts that are named without a path. Raise InputError."""
    source = f"{DIRECTORY}/hotplugpath.sh"
    try:
        text = Path(source).read_text("utf-8", "replace")
    except OSError:
        return DIRECTORY
    found = re.findall(r"^XEN_SCRIPT_DIR=([\"']?)(.*?)\1[ \t]*$", text, flags=re.M)
    if not found:
        return DIRECTORY
    path = found[-1][1]
    if not re.fullmatch(r"/[\w./+-]+", path, flags=re.A):
        raise InputError(f"{source}: XEN_SCRIPT_DIR={one_line(path)} is not an absolute path; correct it")
    return os.path.normpath(path)


def hook(name: str) -> str:
    """Return the path of our script of that name, in this checkout or under this prefix; "" if none."""
    for folder in Path(__file__).resolve().parents[1:]:
        for hooks in ("hooks", "lib/vmnet-hooks/hooks"):
            path = folder / hooks / "xen" / name
            if path.exists():
                return str(path)
    return ""


def look(path: str, registered: Mapping[str, str]) -> Script:
    """Return the state of the script at `path`, and of `path`.xen."""
    aside_path = registered.get(path, f"{path}.xen")
    at = At.NOTHING
    name = os.path.basename(path).removeprefix("vmnet-")
    target = os.readlink(path) if os.path.islink(path) else ""
    if target.endswith(f"/hooks/xen/{name}"):
        at = At.OURS if target == hook(name) else At.OLD
    elif os.path.lexists(path):
        at = At.FILE
    aside = Aside.NOTHING
    if os.path.lexists(aside_path):
        aside = Aside.SAME if at is At.FILE and _same(path, aside_path) else Aside.OTHER
    return Script(path, aside_path, at, aside, path in registered, target)


def _same(one: str, other: str) -> bool:
    """Return whether two paths are one file, or files with equal content (the installation of Xen's package was interrupted)."""
    first, second = os.lstat(one), os.lstat(other)
    if os.path.samestat(first, second):
        return True
    if (first.st_mode, first.st_uid, first.st_gid) != (second.st_mode, second.st_uid, second.st_gid):
        return False
    return os.path.isfile(one) and not os.path.islink(one) and filecmp.cmp(one, other, shallow=False)


def registered() -> dict[str, str]:
    """Return our diversions, {NAME: NAME.xen}; none if there is no dpkg. Raise VmnetError."""
    if not shutil.which("dpkg-divert"):
        return {}
    pattern = rf"^diversion of (/.*) to (/.*) by {PACKAGE}$"
    return dict(re.findall(pattern, _dpkg_divert("--list"), flags=re.M))


def _dpkg_divert(*words: str) -> str:
    try:
        done = subprocess.run(
            ["dpkg-divert", *words], capture_output=True, text=True, timeout=30, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VmnetError(f"dpkg-divert: {error}") from None
    if done.returncode:
        raise VmnetError(f"dpkg-divert: {done.stderr.strip().removeprefix('dpkg-divert: error: ')}")
    return done.stdout


def sourcing(where: str) -> list[tuple[str, str]]:
    """Return (path, name) for each shell script in the folder that sources a script which `divert` replaces, or has a shell read
    it."""
    found = []
    for path in sorted(glob.glob(f"{glob.escape(where)}/*")):
        with suppress(OSError):
            text = "" if path.endswith(".xen") else Path(path).read_text("utf-8", "replace")
            if re.match(r"#!.*sh\b", text):
                found += [(path, name) for name in SHIPPED if re.search(_SOURCES.format(name), text, re.M)]
    return found


def divert(where: str) -> tuple[list[Script], list[str]]:
    """Replace Xen's scripts by ours, all or none. Return the scripts that changed, as they were before, and warnings. Raise
    VmnetError."""
    if not os.path.isdir(where):
        raise VmnetError(f"{where} does not exist; install Xen's tools first (xen-utils-common)")
    if missing := [name for name in DIVERTED if not hook(name)]:
        raise VmnetError(f"hooks/xen/{missing[0]} is not installed with this program; reinstall vmnet-hooks")
    with _locked():
        known = registered()
        scripts = [look(f"{where}/{name}", known) for name in DIVERTED]
        warnings = [f"{s.path} is neither Xen's nor ours, and left alone" for s in scripts if s.is_foreign]
        return _carry_out([(script, to_divert(script)) for script in scripts]), warnings


def undivert() -> tuple[list[Script], list[str]]:
    """Undo `divert` in every folder for which dpkg has a diversion: hotplugpath.sh, which names the folder, may have been edited
    or removed. Return the same as `divert`. Raise VmnetError."""
    with _locked():
        known = registered()
        paths = dict.fromkeys([*(f"{DIRECTORY}/{name}" for name in DIVERTED), *known])
        scripts = [look(path, known) for path in paths]
        warnings = [text for script in scripts if (text := stays(script))]
        return _carry_out([(script, to_undivert(script)) for script in scripts]), warnings


@contextmanager
def _locked() -> Iterator[None]:
    """Exclude other processes of ours. dpkg needs no lock: it reads its diversions again when they have changed."""
    if not shutil.which("dpkg-divert"):
        raise VmnetError("no dpkg-divert: not a Debian system; name our scripts in xl.cfg instead: script=vmnet-vif-bridge")
    with ExitStack() as opened:
        with suppress(FileNotFoundError):
            file = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _carry_out(plans: Sequence[tuple[Script, Sequence[Step]]]) -> list[Script]:
    """Carry out the steps; return the scripts that had any. If a step fails, undo the steps before it."""
    with ExitStack() as undo:
        for script, steps in plans:
            try:
                with suppress(FileNotFoundError):
                    os.unlink(_new(script))
                for step in steps:
                    undo.callback(_take(step, script))
            except OSError as error:
                raise VmnetError(f"{script.path}: {error.strerror}; nothing was changed") from None
        undo.pop_all()
    return [script for script, steps in plans if steps]


def _new(script: Script) -> str:
    """Return the temporary path of a file that is then renamed to NAME. xl never runs this path."""
    return f"{os.path.dirname(script.path)}/.{script.name}.{PACKAGE}"


def _take(step: Step, script: Script) -> Callable[[], None]:
    """Carry out a step; return the function that undoes it."""
    path, aside, old = script.path, script.aside_path, script.target if script.is_ours else ""

    def add() -> None:
        _dpkg_divert("--package", PACKAGE, "--no-rename", "--divert", aside, "--add", path)

    def remove() -> None:
        _dpkg_divert("--package", PACKAGE, "--no-rename", "--remove", path)

    def keep() -> None:
        os.link(path, aside, follow_symlinks=False)

    def take_over() -> None:
        try:
            os.rename(_new(script), path)
        except OSError:
            os.unlink(_new(script))
            raise

    def link(target: str) -> None:
        os.symlink(target, _new(script))
        take_over()

    def unlink() -> None:
        os.unlink(path)

    def forget() -> None:
        os.unlink(aside)

    def put_back() -> None:
        """Restore NAME and keep NAME.xen: another step removes it, or it existed before."""
        os.link(aside, _new(script), follow_symlinks=False)
        take_over()

    def restore() -> None:
        os.rename(aside, path)

    def set_aside() -> None:
        if old:
            keep()
            link(old)
        else:
            os.rename(path, aside)

    take: Callable[[], None]
    back: Callable[[], None]
    match step:
        case Step.REGISTER:
            take, back = add, remove
        case Step.UNREGISTER:
            take, back = remove, add
        case Step.KEEP:
            take, back = keep, forget
        case Step.FORGET:
            take, back = forget, keep
        case Step.RESTORE:
            take, back = restore, set_aside
        case Step.LINK:
            take = partial(link, hook(script.name))
            back = partial(link, old) if old else put_back if script.at is At.FILE else unlink
        case Step.UNLINK:
            take, back = unlink, partial(link, old)
    take()
    return back

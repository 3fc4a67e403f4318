"""The processes that serve networks: dnsmasq under systemd, or, where systemd does not run this network namespace, started by
us."""

import os
import select
import shutil
import signal
import subprocess
import sys
from _socket import AF_INET, AF_INET6, inet_ntop
from collections.abc import Sequence
from contextlib import suppress

from ..errors import KernelError, one_line
from ..model.facts import Listener, Server
from ..model.objects.dnsmasq import Dnsmasq
from . import listeners

_PORT = 53
_ENDS_WITHIN = 5.0
"""Seconds."""
_INSTALL = "dnsmasq is not installed; apt install dnsmasq-base"


def facts(name: str, addresses: Sequence[str]) -> Server:
    """Return what the server of a network depends on; `addresses` are those at which it serves DNS. Raise OSError."""
    if not running(name):
        if not shutil.which("dnsmasq", path=_path()):
            return Server(units(), _INSTALL)
        if taken := _taken(addresses):
            return Server(units(), taken)
    return Server(units())


def units() -> bool:
    """Whether systemd runs the services of this network namespace."""
    if not os.path.isdir("/run/systemd/system"):
        return False
    try:
        return os.stat("/proc/1/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        # A service without CAP_SYS_PTRACE, as the agent, may not look.
        return True


def running(name: str) -> int:
    """Return the process of the server of a network; 0 if there is none."""
    try:
        with open(Dnsmasq.pid_of(name)) as file:
            pid = int(file.read(20))
    except (OSError, ValueError):
        return 0
    return pid if _is_of(pid, name) else 0


def serves(name: str) -> bool:
    """Return whether the server of a network runs with its configuration as it is now: it was started after the file was written,
    when it wrote the file of its number."""
    try:
        return bool(running(name)) and os.stat(Dnsmasq.pid_of(name)).st_mtime_ns >= os.stat(Dnsmasq.conf_of(name)).st_mtime_ns
    except OSError:
        return False


def _is_of(pid: int, name: str) -> bool:
    """Whether a process is the server of a network, in this network namespace. The server writes the file with its number, and
    is not root: this alone tells."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
        if f"--conf-file={Dnsmasq.conf_of(name)}".encode() not in words or not words[0].endswith(b"dnsmasq"):
            return False
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except PermissionError:
        return True
    except OSError:
        return False


def _all_of(name: str) -> list[int]:
    """Return all processes of the server of a network: its file may be lost."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _is_of(int(entry), name)]


def test(path: str) -> None:
    """Have dnsmasq check a configuration. Raise KernelError."""
    _run(["dnsmasq", "--test", f"--conf-file={path}"])


def start(server: Dnsmasq) -> None:
    """Start a server with its present files, or start it again. Raise KernelError."""
    if server.unit:
        with suppress(KernelError):
            # Otherwise systemd refuses one that has failed too often.
            _run(["systemctl", "reset-failed", server.unit_name])
        try:
            _run(["systemctl", "restart", server.unit_name])
        except KernelError as error:
            raise KernelError(f"{error}; see `journalctl -u {server.unit_name}`") from None
        return
    stop(server)
    folder = server.state_of(server.name)
    os.makedirs(folder, exist_ok=True)
    for path in (folder, server.leases_of(server.name)):
        with suppress(FileNotFoundError):
            os.chown(path, server.USER, server.USER, follow_symlinks=False)
    _run(server.command)


def reload(server: Dnsmasq) -> None:
    """Have a server read its static leases anew. Raise KernelError."""
    if server.unit:
        _run(["systemctl", "reload", server.unit_name])
    elif pid := running(server.name):
        os.kill(pid, signal.SIGHUP)


def stop(server: Dnsmasq) -> None:
    """Stop a server. That it does not run is no error. Raise KernelError."""
    if server.unit:
        _run(["systemctl", "stop", server.unit_name])
        return
    found = running(server.name)
    for pid in [found] if found else _all_of(server.name):
        _end(pid, server.name)
    with suppress(FileNotFoundError):
        os.unlink(server.pid_of(server.name))


def forget_leases(server: Dnsmasq) -> None:
    """Remove the leases of a server that does not run. Raise KernelError."""
    if server.unit:
        _run(["systemctl", "clean", "--what=state", server.unit_name])
    shutil.rmtree(server.state_of(server.name), ignore_errors=True)


def _end(pid: int, name: str) -> None:
    """End a process, and wait until its ports are free: its command line is gone before that."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            # The number is its own for as long as this is open.
            if _is_of(pid, name):
                signal.pidfd_send_signal(process, signal.SIGTERM)
                if not select.select([process], [], [], _ENDS_WITHIN)[0]:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    select.select([process], [], [], _ENDS_WITHIN)
        finally:
            os.close(process)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _run(command: Sequence[str]) -> None:
    """Run a command. Raise KernelError with the last line that it prints."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            errors="replace",
            env={**os.environ, "PATH": _path(), "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise KernelError(_INSTALL if "dnsmasq" in command else f"{command[0]} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{command[0]}: {error}") from None
    if done.returncode:
        said = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        why = one_line(said[-1])
        raise KernelError(_INSTALL if "failed to execute dnsmasq" in why else why)


# --- what is in the way ----------------------------------------------------------------------------------------------------


def _taken(addresses: Sequence[str]) -> str:
    """Return which program has the port of DNS at one of the addresses, with the remedy; "" if none. A server of ours does not
    count: that of a network which is called otherwise by now goes first."""
    versions = {6 if ":" in address else 4 for address in addresses}
    for found in sorted(listeners.listeners()):
        if found.port != _PORT or found.protocol not in ("tcp", "udp"):
            continue
        if found.address in addresses or (not found.address and found.version in versions):
            pid = _holder(found)
            if not (pid and _is_ours(pid)):
                return (
                    f"port 53 of {found.address or 'all addresses'} is taken by {_named(pid)}; let it leave out the bridge "
                    "(dnsmasq: bind-interfaces, named: listen-on, unbound: interface), or stop it"
                )
    return ""


def _is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return f"--conf-file={Dnsmasq.DIRECTORY}/".encode() in file.read(4096)
    except OSError:
        return False


def _named(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", errors="replace") as file:
        return f"{one_line(file.read().strip())} (pid {pid})"
    return "another program"


def _holder(listener: Listener) -> int:
    """Return the process that listens; 0 if it is not found."""
    inode = _inode(listener)
    for entry in os.listdir("/proc") if inode else ():
        if entry.isdigit():
            with suppress(OSError):
                links = (os.readlink(f"/proc/{entry}/fd/{fd}") for fd in os.listdir(f"/proc/{entry}/fd"))
                if f"socket:[{inode}]" in links:
                    return int(entry)
    return 0


def _inode(listener: Listener) -> str:
    """Return the number of a listener's socket; "" if it is gone."""
    for name in (listener.protocol, f"{listener.protocol}6"):
        with suppress(OSError), open(f"/proc/self/net/{name}") as file:
            for line in file.readlines()[1:]:
                words = line.split()
                address, _, port = words[1].partition(":")
                # A socket that is bound to an IPv6 wildcard may have the port of both families.
                if int(port, 16) == listener.port and _address(address) == listener.address:
                    return words[9]
    return ""


def _address(packed: str) -> str:
    """Return an address of /proc/net/udp, "" for a wildcard: words of 32 bits, each in the order of this machine."""
    words = [int(packed[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(packed), 8)]
    joined = b"".join(words)
    return inet_ntop(AF_INET if len(joined) == 4 else AF_INET6, joined) if any(joined) else ""

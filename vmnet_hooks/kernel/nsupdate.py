"""nsupdate(1), which tells a DNS server of names, and the key that it signs with.

The agent may not use the network itself: under systemd, a socket starts nsupdate in a unit of its own (vmnet-ddns@.service) for
each connection. Where systemd has not started the agent, nsupdate is a child of this process.
"""

import os
import shutil
import socket
import stat
import subprocess

from ..errors import VmnetError
from ..services.nsupdate import Key, key_of

SOCKET = "/run/vmnet-ddns.sock"
"""The socket of vmnet-ddns.socket."""

WORDS = ("nsupdate", "-t", "5", "-u", "2", "-r", "1")
"""A server that does not answer costs 4 s: it is asked twice."""

SECONDS = 15.0
"""Limit on one run."""

MAX_KEY = 1 << 16
MAX_OUTPUT = 1 << 16


def send(update: str) -> str:
    """Have nsupdate carry an update out, and return what it prints. Raise VmnetError if it can't be run."""
    if not shutil.which(WORDS[0]):
        raise VmnetError("nsupdate is not installed; apt install bind9-dnsutils")
    try:
        if os.path.exists(SOCKET):
            return _by_socket(update)
        if "INVOCATION_ID" in os.environ:
            # The unit's children may use no network.
            raise VmnetError("vmnet-ddns.socket does not listen; systemctl start vmnet-ddns.socket")
        done = subprocess.run(
            WORDS, input=update, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS
        )
        return done.stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise VmnetError(f"nsupdate can't be run: {error}; see `systemctl status vmnet-ddns.socket`") from None


def _by_socket(update: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        connection.connect(SOCKET)
        connection.sendall(update.encode())
        connection.shutdown(socket.SHUT_WR)
        output = b""
        while len(output) < MAX_OUTPUT and (more := connection.recv(MAX_OUTPUT)):
            output += more
        return output.decode(errors="replace")


def key(path: str) -> Key:
    """Read a TSIG key. Raise VmnetError, which does not quote it, if the file can't be read, or others than its owner and its
    group can read it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise VmnetError(f"{path}: is no file; write a key there with: tsig-keygen NAME")
            if found.st_mode & stat.S_IRWXO:
                raise VmnetError(f"{path}: any user may read the key; chmod o= {path}")
            return key_of(file.read(MAX_KEY).decode("ascii"))
    except OSError as error:
        raise VmnetError(f"{path}: {error.strerror}; it must be a file that root owns") from None
    except ValueError as error:
        problem = "holds no TSIG key; make one with: tsig-keygen NAME" if isinstance(error, UnicodeError) else str(error)
        raise VmnetError(f"{path}: {problem}") from None

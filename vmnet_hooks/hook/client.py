"""Hands a call over to the agent, if one is there. Every hook that matters comes through here: `posix` and `_socket` cost
nothing, their well-known wrappers cost more than the agent's whole answer.

A request is one line, `vmnet-hooks VERSION FRONTEND PARENT ARGV ENVIRON STDIN`, whose last three words are lengths in bytes of
what follows: the arguments and the environment (each NUL-separated) and the standard input. The answer is a line
`STATUS LENGTH` and so many bytes for the standard error; STATUS `-` is a refusal.
"""

import posix
import sys
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket

from .. import __version__
from ..frontends import FRONTENDS

SOCKET = "/run/vmnet-hooks/agent.sock"
SECONDS = 10.0
"""How long the agent has: libvirt waits for ever, xl for 40 s, and the call is done here then."""

MAX_STDIN = (8 << 20) + 1
"""Bytes: what is longer no front end takes."""


def hand_over(frontend: str, argv: list[str]) -> tuple[int | None, bytes | None]:
    """Lets the agent do one call. Returns the exit status, None if it is to be done here; and what was read of standard input,
    None if nothing was."""
    stdin: bytes | None = None
    needs = FRONTENDS[frontend][3]
    with_agent = connected() if needs else None
    if with_agent is None:
        return None, None
    try:
        if needs == "stdin":
            stdin = _read_all()
            if len(stdin) >= MAX_STDIN:
                return None, stdin
        environ = b"\0".join(b"%b=%b" % pair for pair in posix.environ.items())
        answer = asked(with_agent, frontend, b"\0".join(map(_bytes, argv)), environ, stdin or b"")
    except OSError:
        # It is gone, or takes too long.
        return None, stdin
    finally:
        with_agent.close()
    first, _, text = answer.partition(b"\n")
    words = first.split()
    if len(words) != 2 or words[0] == b"-" or len(text) != int(words[1]):
        return None, stdin
    if text:
        try:
            posix.write(2, text)
        except OSError:
            pass
    return int(words[0]), stdin


def connected(path: str = SOCKET) -> socket | None:
    """A connection to the agent, None if there is none. Whoever answers on that socket is root, or nobody."""
    found = socket(AF_UNIX, SOCK_STREAM)
    found.settimeout(SECONDS)
    try:
        found.connect(path)
        # struct ucred: pid, uid, gid.
        uid = int.from_bytes(found.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid in (0, posix.geteuid()):
            return found
    except OSError:
        pass
    found.close()
    return None


def asked(agent: socket, frontend: str, argv: bytes = b"", environ: bytes = b"", stdin: bytes = b"") -> bytes:
    """Sends a request; returns all of the answer. Raises OSError."""
    agent.sendall(head(frontend, len(argv), len(environ), len(stdin)) + argv + environ + stdin)
    answer = b""
    while more := agent.recv(1 << 16):
        answer += more
    return answer


def head(frontend: str, argv: int = 0, environ: int = 0, stdin: int = 0) -> bytes:
    """A request's first line; the numbers are lengths in bytes."""
    lengths = b"%d %d %d" % (argv, environ, stdin)
    return b"vmnet-hooks %b %b %d %b\n" % (__version__.encode(), frontend.encode(), posix.getppid(), lengths)


def _bytes(argument: str) -> bytes:
    return argument.encode("utf-8", "surrogateescape")


def _read_all() -> bytes:
    text = b""
    while len(text) < MAX_STDIN and (more := posix.read(0, 1 << 20)):
        text += more
    return text

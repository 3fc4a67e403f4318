"""Hands a call over to the agent, if there is one. Every call that matters runs this, so it uses the built-in modules `posix` and
`_socket`: importing their wrappers `os` and `socket` takes longer than the agent's answer. hooks/client.c does the same where it
is compiled; tests/unit/test_client.py compares the two.

A request is one line, `vmnet-hooks VERSION HOOK PARENT ARGV ENVIRON STDIN`, then the data: the arguments and the environment
(each NUL-separated), and the standard input. The last three words of the line are the lengths of these in bytes. The answer is a
line `STATUS LENGTH`, then LENGTH bytes for the standard error. STATUS `-` is a refusal.
"""

import posix
import sys
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket
from time import monotonic

from .. import RUN, __version__
from ..frontends import hooks

SOCKET = f"{RUN}/agent.sock"
SECONDS = 10.0
"""Time limit for the agent to take the request and to answer; after it, the call is served in this process. libvirt waits
without a limit, xl for 40 s."""

MAX_STDIN = (8 << 20) + 1
"""Bytes of standard input that are read, at most. No front end accepts more."""

MAX_WORDS = 1 << 20
"""Bytes of arguments, and of environment, that the agent takes. Linux allows 2 MiB for both together."""

MAX_ANSWER = 1 << 16
"""Bytes of an answer to a hook. A reason has about 1200 characters."""


def hand_over(hook: str, argv: list[str]) -> tuple[int | None, bytes | None]:
    """Have the agent serve one call. Return the exit status (None if the call must be served in this process), and the standard
    input (None if it has not been read)."""
    stdin: bytes | None = None
    row = hooks()[hook]
    agent = connected() if hook.rpartition("/")[2] in row.served else None
    if agent is None:
        return None, None
    try:
        if row.stdin:
            stdin = _read_all()
            if len(stdin) >= MAX_STDIN:
                return None, stdin
        environ = b"\0".join(b"%b=%b" % pair for pair in posix.environ.items())
        answer = asked(agent, hook, b"\0".join(map(_bytes, argv)), environ, stdin or b"")
    except OSError:
        # The agent has ended, or takes too long.
        return None, stdin
    finally:
        agent.close()
    status, text = parsed(answer)
    if text:
        try:
            posix.write(2, text)
        except OSError:
            pass
    return status, stdin


def parsed(answer: bytes) -> tuple[int | None, bytes]:
    """Return the exit status of an answer, and the bytes for the standard error; None if it is a refusal, or no answer to a
    hook."""
    first, newline, text = answer.partition(b"\n")
    status = first.partition(b" ")[0][:9]
    if not newline or len(answer) > MAX_ANSWER or not status.isdigit() or int(status) > 255:
        return None, b""
    return (int(status), text) if first == b"%d %d" % (int(status), len(text)) else (None, b"")


def connected(path: str = SOCKET) -> socket | None:
    """Return a connection to the agent; None if there is none. Only an agent that runs as root or as this user is trusted."""
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


def asked(agent: socket, hook: str, argv: bytes = b"", environ: bytes = b"", stdin: bytes = b"") -> bytes:
    """Send a request; return the complete answer. Raise OSError, also if both take longer than SECONDS."""
    end = monotonic() + SECONDS
    agent.sendall(head(hook, len(argv), len(environ), len(stdin)) + argv + environ + stdin)
    answer = b""
    while True:
        agent.settimeout(max(end - monotonic(), 0.001))
        more = agent.recv(1 << 16)
        if not more:
            return answer
        answer += more


def head(hook: str, argv: int = 0, environ: int = 0, stdin: int = 0) -> bytes:
    """Return the first line of a request. The numbers are lengths in bytes."""
    lengths = b"%d %d %d" % (argv, environ, stdin)
    return b"vmnet-hooks %b %b %d %b\n" % (__version__.encode(), hook.encode(), posix.getppid(), lengths)


def _bytes(argument: str) -> bytes:
    return argument.encode("utf-8", "surrogateescape")


def _read_all() -> bytes:
    text = b""
    while len(text) < MAX_STDIN and (more := posix.read(0, 1 << 20)):
        text += more
    return text

"""The agent's socket: reads requests (see hook/client.py), has workers serve them, and answers.

One thread accepts connections and reads from them, without blocking on any client. Calls of one domain are served one after the
other, in the order of their arrival; calls of different domains do not wait for each other. The pool of workers is small because
of the GIL; a worker is added when all are blocked.
"""

import errno
import io
import os
import queue
import selectors
import socket
import stat
import struct
import syslog
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import VmnetError, exhausted, one_line, shortened
from ..frontends import Row, hooks
from ..frontends.front_end import Request, load
from ..hook.call import serve
from ..hook.client import MAX_STDIN, MAX_WORDS, SOCKET
from ..kernel.file_descriptors import moved_up
from ..kernel.free_files import are_free

if TYPE_CHECKING:
    from .main import Agent

MAX_HEAD = 256
MAX_CLIENTS = 1024
READ_SECONDS = 5.0
"""Time limit for a client to send its request."""

WORKERS, MAX_WORKERS = 2, 64
STUCK_SECONDS = 30.0
CALL_FILES = 32
"""Descriptors that a call may need."""

REACHABLE_SECONDS = 1.0
"""Interval at which the agent looks whether hooks find its socket."""

PATIENCE = 0.05
"""If no call ends for that many seconds while calls wait, a worker is added."""

_REFUSED = b"- 0\n"


@dataclass
class Client:
    """A connection, and the part of the request that has been received."""

    connection: socket.socket
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    lengths: tuple[int, int, int] | None = None
    hook: str = ""
    parent: int = 0

    def is_gone(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class Refused(Exception):
    """The agent does not serve a request: it is malformed, or of another version, or not for the agent. The hook then serves the
    call in its own process."""


class Server:
    """The server. `commands` are the requests of `vmnet-hook` by name, as functions that return the answer. `follow` takes over
    the connection of a `vmnet-hook monitor`."""

    def __init__(self, agent: "Agent", commands: dict[str, Callable[[], str]], follow: Callable[[socket.socket], None]) -> None:
        self._agent, self._commands, self._follow = agent, commands, follow
        self._clients: dict[int, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._ready: queue.SimpleQueue[tuple[str, Client] | None] = queue.SimpleQueue()
        self._waiting: dict[str, deque[Client]] = {}
        self._lock = threading.Lock()
        self._workers = 0
        self._closing = False
        self._last_end = self._last_look = time.monotonic()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        # See _turn_away.
        self._spare = os.dup(self._woken.fileno())
        self._hands_back = False
        self._looked_at = 0.0
        self._path = ""
        self._place: object = None
        self.served = 0

    # --- connections --------------------------------------------------------------------------------------------------------

    def start(self, listening: socket.socket) -> None:
        """Start the threads that serve."""
        self._listen(listening)
        self._selector.register(self._woken, selectors.EVENT_READ)
        for _ in range(WORKERS):
            self._add_worker()
        threading.Thread(target=self._run, name="server", daemon=True).start()

    def _listen(self, listening: socket.socket) -> None:
        self._listening, self._path = listening, listening.getsockname()
        self._place = _identity(self._path)
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)

    def _stay_reachable(self) -> None:
        """Make the socket's file again if it was removed or replaced: hooks would not find the agent. End if that can't be done,
        or another agent is there."""
        if self._place is not None and _identity(self._path) == self._place:
            return
        try:
            found = bound(self._path)
        except VmnetError as error:
            self._agent.note("error", f"{error}; ends", syslog.LOG_ERR)
            self._agent.stopping.set()
            self._looked_at = float("inf")
            return
        self._agent.note("heal", f"{self._path} was removed or replaced, and is made again", syslog.LOG_WARNING)
        self._selector.unregister(self._listening)
        # A hook may have connected before.
        self._accept()
        self._listening.close()
        self._listen(found)

    def is_alive(self) -> bool:
        """Return whether the thread that reads from connections runs. To be called every few seconds."""
        self._wake.send(b".")
        return time.monotonic() - self._last_look < STUCK_SECONDS

    def close(self, seconds: float) -> None:
        """Accept no more calls. Wait for those in progress, but at most for `seconds`."""
        with self._lock:
            # A client that is still sending its request is refused, and serves the call in its own process.
            self._closing = True
        self._selector.unregister(self._listening)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                if not self._waiting:
                    return
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            with self._lock:
                has_work = bool(self._waiting)
            for key, _ in self._selector.select(PATIENCE if has_work else REACHABLE_SECONDS):
                if key.fileobj is self._listening:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(1 << 10)
                elif client := self._clients.get(key.fd):
                    self._read(client)
            self._look_after()

    def _accept(self) -> None:
        while len(self._clients) < MAX_CLIENTS:
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                self._turn_away(error)
                return
            pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()):
                self._agent.note("error", f"refused process {pid} of user {uid}", syslog.LOG_WARNING)
                self._agent.count("refused", reason="user")
                connection.close()
                continue
            connection.setblocking(False)
            connection = moved_up(connection)
            client = Client(connection, time.monotonic() + READ_SECONDS)
            self._clients[connection.fileno()] = client
            self._selector.register(connection, selectors.EVENT_READ)
            self._read(client)

    def _turn_away(self, error: OSError) -> None:
        """Refuse a call that can't be accepted because there are no descriptors: by the one that is kept for this."""
        self._hand_back(exhausted(error) or str(error))
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
            with suppress(OSError):
                connection, _ = self._listening.accept()
                _answer(connection, _REFUSED)
        with suppress(OSError):
            self._spare = os.dup(self._woken.fileno())
        if self._spare < 0:
            time.sleep(0.01)

    def _has_files(self) -> bool:
        """Return whether there are descriptors for a call."""
        if are_free(CALL_FILES):
            self._hands_back = False
            return True
        self._hand_back(exhausted(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
        return False

    def _hand_back(self, why: str) -> None:
        self._agent.count("refused", reason="files")
        if not self._hands_back:
            self._agent.note("error", f"calls are handed back to the hooks: {why}", syslog.LOG_WARNING)
        self._hands_back = True

    def _forget(self, client: Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]

    def _read(self, client: Client) -> None:
        try:
            more = client.connection.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        try:
            if not more:
                raise Refused("hung up")
            client.data += more
            if client.lengths is None and not self._read_head(client):
                return
            wanted = sum(client.lengths or ())
            if len(client.data) > wanted:
                raise Refused("more than it said")
            if len(client.data) == wanted:
                self._forget(client)
                self._take(client)
        except Refused as reason:
            self._agent.count("refused", reason=str(reason))
            if client.connection.fileno() in self._clients:
                self._forget(client)
            _answer(client.connection, _REFUSED)

    def _read_head(self, client: Client) -> bool:
        """Parse the first line. Return whether it has been received. Raise Refused."""
        end = client.data.find(b"\n", 0, MAX_HEAD)
        if end < 0:
            if len(client.data) >= MAX_HEAD:
                raise Refused("nonsense")
            return False
        words = bytes(client.data[:end]).split()
        if len(words) != 7 or words[0] != b"vmnet-hooks" or not all(word.isdigit() for word in words[3:]):
            raise Refused("nonsense")
        if words[1] != __version__.encode():
            # The package is being upgraded: the hook and the agent may differ.
            raise Refused("version")
        client.hook = words[2].decode("ascii", "replace")
        client.parent, *lengths = (int(word) for word in words[3:])
        client.lengths = (lengths[0], lengths[1], lengths[2])
        if max(lengths[:2]) > MAX_WORDS or lengths[2] > MAX_STDIN:
            raise Refused("too long")
        del client.data[: end + 1]
        return True

    def _look_after(self) -> None:
        """Close connections that have not sent a request in time. Add a worker if no call ends."""
        now = self._last_look = time.monotonic()
        if now > self._looked_at + REACHABLE_SECONDS and not self._closing:
            self._looked_at = now
            self._stay_reachable()
        for client in [c for c in self._clients.values() if c.deadline < now]:
            self._agent.count("refused", reason="silent")
            self._forget(client)
            client.connection.close()
        with self._lock:
            stuck = bool(self._waiting) and now - self._last_end > PATIENCE and not self._ready.empty()
        if stuck and self._workers < MAX_WORKERS:
            self._last_end = now
            self._add_worker()

    # --- work ---------------------------------------------------------------------------------------------------------------

    def _take(self, client: Client) -> None:
        if client.hook.startswith("agent/"):
            command = client.hook.removeprefix("agent/")
            if command == "monitor":
                self._follow(client.connection)
                return
            if command not in self._commands:
                raise Refused("unknown")
            text = self._commands[command]().encode()
            _answer(client.connection, b"0 %d\n%b" % (len(text), text))
            return
        row = hooks().get(client.hook)
        if row is None or client.hook.rpartition("/")[2] not in row.served or load(row).keeps_calls():
            raise Refused("not ours")
        key = f"{row.name} {_ordered(row, client)}"
        with self._lock:
            if self._closing:
                raise Refused("ending")
            if key in self._waiting:
                self._waiting[key].append(client)
                return
            if not self._waiting:
                self._last_end = time.monotonic()
            self._waiting[key] = deque()
        self._ready.put((key, client))

    def _add_worker(self) -> None:
        self._workers += 1
        threading.Thread(target=self._work, name=f"worker-{self._workers}", daemon=True).start()

    def _work(self) -> None:
        while item := self._ready.get():
            key, client = item
            try:
                # A client that has given up serves the call in its own process.
                if not client.is_gone():
                    self._serve(client)
            except Exception as error:
                self._agent.note("error", f"internal error: {type(error).__name__}: {error}", syslog.LOG_ERR)
                _answer(client.connection, _REFUSED)
            with self._lock:
                self._last_end = time.monotonic()
                self.served += 1
                following = self._waiting[key].popleft() if self._waiting[key] else None
                if following is None:
                    del self._waiting[key]
            if following:
                self._ready.put((key, following))

    def _serve(self, client: Client) -> None:
        begin = time.perf_counter()
        if not self._has_files():
            _answer(client.connection, _REFUSED)
            return
        argv, environ = _words(client, 0), dict(pair.partition("=")[::2] for pair in _words(client, 1))
        start = sum((client.lengths or ())[:2])
        request = Request(argv, environ, io.BytesIO(client.data[start:]), client.parent, self._agent.place.declared)
        with self._agent.place.on_behalf(lambda: not client.is_gone()):
            status, reason = serve(client.hook, request, self._agent.place)
        if status and not self._has_files():
            # Everything is as it was.
            _answer(client.connection, _REFUSED)
            return
        text = f"vmnet-hook: {shortened(reason)}\n".encode() if reason else b""
        _answer(client.connection, b"%d %d\n%b" % (status, len(text), text))
        operation = hooks()[client.hook].operation(argv) or client.hook.partition("/")[2]
        self._agent.served(client.hook, operation, status, time.perf_counter() - begin)


def _ordered(row: Row, client: Client) -> str:
    """Return the key of a call: calls with the same key are served one after the other."""
    if not row.order:
        return "".join(_words(client, 0)[1:2])
    environ = dict(pair.partition("=")[::2] for pair in _words(client, 1))
    return next((environ[name] for name in row.order if environ.get(name)), "")


def _words(client: Client, number: int) -> list[str]:
    lengths = client.lengths or (0, 0, 0)
    start = sum(lengths[:number])
    data = bytes(client.data[start : start + lengths[number]])
    return [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")] if data else []


def _answer(connection: socket.socket, answer: bytes) -> None:
    """Send the answer and close the connection. A client that has gone is no error."""
    try:
        connection.settimeout(1.0)
        connection.sendall(answer)
    except OSError:
        pass
    connection.close()


def listening(path: str = SOCKET) -> socket.socket:
    """Return the listening socket: the one passed by systemd, else a new one at `path`, accessible to root only. Raise
    VmnetError."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=3)
    return bound(path)


def _identity(path: str) -> object:
    """Return the identity of the socket's file; None if it is no socket."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def bound(path: str) -> socket.socket:
    """Return a new listening socket at `path`, accessible to root only. Raise VmnetError."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.connect(path)
        raise VmnetError(f"{path}: another agent is there already; see `systemctl status vmnet-hookd`")
    except OSError:
        # No process listens: the file, if any, is left from an agent that was killed.
        pass
    finally:
        lock.close()
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.lexists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            found.bind(path)
        finally:
            os.umask(mask)
        found.listen(4096)
    except OSError as error:
        raise VmnetError(f"{path}: {one_line(error)}; run as root") from None
    return found

"""vmnet-hookd: starts the parts of the agent, tells systemd, and ends them. See vmnet-hookd(8)."""

import gc
import json
import os
import queue
import resource
import signal
import socket
import syslog
import threading
import time
import traceback
from collections import Counter
from typing import Any

import click

from .. import __version__
from ..engine import host  # noqa: F401  Loaded with the rest: the first call that needs it must not wait for it.
from ..engine.healing import reconcile
from ..errors import VmnetError, one_line
from ..frontends import FRONT_ENDS
from ..frontends.front_end import load
from ..frontends.running import gone
from ..hook.call import log
from ..hook.events import RECORDS_ALONE
from ..kernel import root
from ..kernel.monitor.table_cache import TableCache
from .announcer import Announcer
from .healing import Healing
from .hotplug import Hotplug
from .index import Index
from .metrics import Metrics, label
from .migration import IncomingMigrations
from .neighbour_discovery import NeighbourDiscovery
from .place import Resident
from .server import Server, listening

GRACE = 10.0
"""Seconds for the calls under way when the agent is told to end."""

GARBAGE = 100_000
"""Allocations between runs of the cyclic garbage collector."""

TICK = 1.0
FOLLOWERS = 64


class Agent:
    """The agent. Its parts know it: `place`, `index`, `stopping` (set when all shall end), `note` and `count`."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.since = time.time()
        self.metrics = Metrics()
        self.count = self.metrics.count
        self.index = Index(self)
        self.announcer = Announcer(self)
        self.arrivals = IncomingMigrations(self)
        self.place = Resident(self.note, self.announcer.announce, self.arrivals.watch, TableCache(), self.index.noting)
        self.server = Server(self, {"status": self._status}, self._follow)
        self.parts: list[Any] = [self.index, self.announcer, self.arrivals, NeighbourDiscovery(self), Healing(self)]
        # Loads every front end: the first call of one must not wait for it.
        self.parts += [Hotplug(self, row.name, watch) for row in FRONT_ENDS if (watch := load(row).watch)]
        self._followers: list[socket.socket] = []
        self._lines: queue.SimpleQueue[str | socket.socket] = queue.SimpleQueue()

    # --- what happens -------------------------------------------------------------------------------------------------------

    def note(self, kind: str, text: str, priority: int = syslog.LOG_INFO) -> None:
        """One line for the journal and for whoever follows."""
        log(priority, f"{kind}: {text}")
        self._lines.put(one_line(f"{kind}: {text}"))

    def served(self, frontend: str, operation: str, status: int, seconds: float) -> None:
        """A call was served."""
        self.metrics.took(seconds)
        self.count("requests", frontend=frontend, operation=operation, status=str(status))
        self._lines.put(one_line(f"call: {frontend} {operation}: status {status}, {seconds * 1000:.1f} ms"))
        self.index.look()

    def _follow(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._lines.put(connection)

    def _tell(self) -> None:
        """Passes lines on to the followers; whoever does not read is let go."""
        while True:
            item = self._lines.get()
            if isinstance(item, socket.socket):
                self._followers = [*self._followers, item][-FOLLOWERS:]
                continue
            line = f"{time.strftime('%H:%M:%S')} {item}\n".encode()
            for follower in self._followers:
                try:
                    follower.send(line)
                except OSError:
                    follower.close()
            self._followers = [follower for follower in self._followers if follower.fileno() >= 0]

    def _status(self) -> str:
        return json.dumps(
            {
                "version": __version__,
                "pid": os.getpid(),
                "since": self.since,
                "served": self.server.served,
                "healed": int(self.metrics.total("healed")),
                "vifs": sum(bool(owner.domain) for owner in self.index.owners.values()),
            }
        )

    # --- its life -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until it is told to end. Raises VmnetError if it can't."""
        # A descriptor for each routed tap, and for each hook under way.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        threading.excepthook = _end
        # What is loaded now stays. Little of what comes and goes is in cycles, and a run takes longer with every guest.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        socket_ = listening()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        # What changed is seen at every call: nothing to do.
        signal.signal(signal.SIGHUP, lambda *_: None)
        threading.Thread(target=self._tell, name="followers", daemon=True).start()
        for part in self.parts:
            part.start()
        self.server.start(socket_)
        notify("READY=1")
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()
        watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        fed = 0.0
        while not self.stopping.wait(TICK):
            self._write_metrics()
            if watchdog and time.monotonic() - fed > watchdog / 4 and self.server.is_alive():
                notify("WATCHDOG=1")
                fed = time.monotonic()
        notify("STOPPING=1")
        self.server.close(GRACE)
        for part in reversed(self.parts):
            part.close()
        self.place.close()

    def _reconcile(self) -> None:
        """What happened while nobody looked: guests that died, links that lost what was on them."""
        try:
            with self.place.session(RECORDS_ALONE) as session:
                found = reconcile(session, gone(session.records.owners()))
            for owner in found.departed:
                self.note("repair", f"{owner.label}: {owner.ifname or owner.network} is gone; cleaned up", syslog.LOG_NOTICE)
            if found.changes:
                keys = [change.subject.key for change in found.changes]
                what = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
                self.note("repair", f"put back: {what}", syslog.LOG_NOTICE)
            for reason in found.failed.values():
                self.note("error", f"at the start: {reason}", syslog.LOG_ERR)
        except Exception as error:
            # What is wrong with one thing keeps no other from being looked after.
            self.note("error", f"at the start: {error or type(error).__name__}", syslog.LOG_ERR)

    def _write_metrics(self) -> None:
        kinds = Counter((owner.network, owner.phase) for owner in self.index.owners.values() if owner.domain)
        vifs = {label(network=network, phase=phase): float(number) for (network, phase), number in kinds.items()}
        try:
            self.metrics.write(self.metrics.text({"vmnet_vifs": vifs, "vmnet_start_time_seconds": {"": self.since}}))
        except OSError as error:
            self.note("error", f"the metrics were not written: {error}", syslog.LOG_WARNING)


def _end(died: threading.ExceptHookArgs) -> None:
    """Ends the agent when one of its threads has died: without it, guests would miss what it did, and nobody would know. Started
    again, it goes on from the records."""
    name = died.thread.name if died.thread else "a thread"
    log(syslog.LOG_CRIT, f"internal error in {name}: {died.exc_type.__name__}: {died.exc_value}; ends, to be started again")
    traceback.print_tb(died.exc_traceback)
    os._exit(1)


def notify(state: str) -> None:
    """Tells systemd, if it started us: sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        try:
            out.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log(syslog.LOG_WARNING, f"systemd was not told {state}: {error}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmnet-hookd")
def main() -> None:
    """The resident agent of vmnet-hooks: serves hooks without the cost of their start, heals what others break, sets up NICs
    that are plugged in while their guest runs, and cuts guests over that come in by live migration.

    It stays in the foreground; systemd runs it as vmnet-hookd.service. See vmnet-hookd(8).
    """
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    try:
        root.require("hooks can't be served", "use `systemctl start vmnet-hookd`")
        Agent().run()
        # Threads that wait for somebody else (a xenstored that hangs) end with us.
        os._exit(0)
    except VmnetError as error:
        click.echo(f"vmnet-hookd: {one_line(error)}", err=True)
        log(syslog.LOG_ERR, str(error))
        raise SystemExit(error.exit_code) from None

"""vmnet-hookd: starts the parts of the agent, notifies systemd, and ends the parts. See vmnet-hookd(8)."""

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
from ..engine import host  # noqa: F401  Loaded at the start: the first call that needs it must not wait for it.
from ..engine.healing import reconcile
from ..errors import VmnetError, one_line
from ..frontends import FRONT_ENDS
from ..frontends.front_end import load
from ..frontends.running import gone
from ..hook.call import log
from ..hook.events import RECORDS_ALONE
from ..kernel import root
from ..kernel.monitor.table_cache import TableCache
from ..model.owner import nics
from .announcer import Announcer
from .carrier import Carrier
from .fail_closed import Keeper
from .healing import Healing
from .hotplug import Hotplug
from .index import Index
from .lessees import Lessees
from .metrics import Metrics, label
from .migration import IncomingMigrations
from .place import Resident
from .registrar import Registrar
from .responder import Responder
from .server import Server, listening

GRACE = 10.0
"""Seconds for calls in progress to end, after SIGTERM."""

GARBAGE = 100_000
"""Allocations between runs of the cyclic garbage collector."""

TICK = 1.0
FOLLOWERS = 64


class Agent:
    """The agent. Its parts use its `place`, `index`, `stopping` (set when the agent ends), `note` and `count`."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self.stopping = threading.Event()
        self.since = time.time()
        self.metrics = Metrics()
        self.count = self.metrics.count
        self.index = Index(self)
        self.announcer = Announcer(self)
        self.arrivals = IncomingMigrations(self)
        self.place = Resident(self.note, self.announcer.announce, self.arrivals.watch, TableCache(), self.index.noting)
        self.responder = Responder(self)
        self.registrar = Registrar(self)
        self.server = Server(self, {"status": self._status, "register": self.registrar.retry}, self._follow)
        self.parts: list[Any] = [self.index, self.announcer, self.arrivals, self.responder, self.registrar, Lessees(self)]
        self.parts += [Healing(self, keeper), Carrier(self)]
        # This loads every front end: the first call of one must not wait for it.
        self.parts += [Hotplug(self, row.name, watch) for row in FRONT_ENDS if (watch := load(row).watch)]
        self._followers: list[socket.socket] = []
        self._lines: queue.SimpleQueue[str | socket.socket] = queue.SimpleQueue()

    # --- what happens -------------------------------------------------------------------------------------------------------

    def note(self, kind: str, text: str, priority: int = syslog.LOG_INFO) -> None:
        """Write one line to the system log and to the followers (`vmnet-hook monitor`)."""
        log(priority, f"{kind}: {text}")
        self._lines.put(one_line(f"{kind}: {text}"))

    def served(self, frontend: str, operation: str, status: int, seconds: float) -> None:
        """Note that a call was served."""
        self.metrics.took(seconds)
        self.count("requests", frontend=frontend, operation=operation, status=str(status))
        self._lines.put(one_line(f"call: {frontend} {operation}: status {status}, {seconds * 1000:.1f} ms"))
        self.index.look()

    def _follow(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._lines.put(connection)

    def _tell(self) -> None:
        """Send lines to the followers. A follower that does not read them is disconnected."""
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
                "vifs": len(nics(self.index.owners.values())),
                "configuration": self._configuration(),
                "deaf": self.responder.deaf(),
            }
        )

    def _configuration(self) -> str:
        """Return by which configuration the agent goes; "" if it is that on disk."""
        try:
            self.place.declared()
        except VmnetError as error:
            return f"it has no configuration: {error}"
        return self.place.caveat()

    # --- its life -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raise VmnetError if the agent can't start."""
        # It needs a descriptor for each routed tap, and for each call in progress.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        threading.excepthook = _end
        # The modules stay loaded. Few short-lived objects are in cycles, and a run of the collector takes longer with every
        # guest.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        socket_ = listening()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        # Ignored: every call notices a changed configuration.
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
        """Make up for events before the agent was started: guests that died, objects that links lost."""
        try:
            with self.place.session(RECORDS_ALONE) as session:
                owners = session.records.owners()
                found = reconcile(session, owners, lambda: gone(owners))
            for owner in found.departed:
                self.note("repair", f"{owner.label}: {owner.loss}; cleaned up", syslog.LOG_NOTICE)
            if found.changes:
                keys = [change.subject.key for change in found.changes]
                what = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
                self.note("repair", f"put back: {what}", syslog.LOG_NOTICE)
            for reason in found.failed.values():
                self.note("error", f"at the start: {reason}", syslog.LOG_ERR)
        except Exception as error:
            # The agent must run even if this fails.
            self.note("error", f"at the start: {error or type(error).__name__}", syslog.LOG_ERR)

    def _write_metrics(self) -> None:
        kinds = Counter((nic.network, nic.phase) for nic in nics(self.index.owners.values()))
        vifs = {label(network=network, phase=phase): float(number) for (network, phase), number in kinds.items()}
        try:
            self.metrics.write(self.metrics.text({"vmnet_vifs": vifs, "vmnet_start_time_seconds": {"": self.since}}))
        except OSError as error:
            self.note("error", f"the metrics were not written: {error}", syslog.LOG_WARNING)


def _end(died: threading.ExceptHookArgs) -> None:
    """End the agent after one of its threads has died: it would go on without that thread's work, unnoticed. systemd restarts the
    agent, which continues from the records."""
    name = died.thread.name if died.thread else "a thread"
    log(syslog.LOG_CRIT, f"internal error in {name}: {died.exc_type.__name__}: {died.exc_value}; ends, to be started again")
    traceback.print_tb(died.exc_traceback)
    os._exit(1)


def notify(state: str) -> None:
    """Notify systemd, if it started the agent, see sd_notify(3)."""
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
@click.pass_obj
def main(keeper: Keeper | None) -> None:
    """The resident agent of vmnet-hooks. It serves hooks without the cost of their start, restores objects that other programs
    change or remove, sets up NICs that are attached to running guests, and cuts guests over that arrive by live migration.

    It stays in the foreground; systemd runs it as vmnet-hookd.service. See vmnet-hookd(8).
    """
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    try:
        root.require("hooks can't be served", "use `systemctl start vmnet-hookd`")
        Agent(keeper).run()
        # os._exit does not wait for threads: one may be blocked (by a xenstored that hangs).
        os._exit(0)
    except VmnetError as error:
        click.echo(f"vmnet-hookd: {one_line(error)}", err=True)
        log(syslog.LOG_ERR, str(error))
        raise SystemExit(error.exit_code) from None

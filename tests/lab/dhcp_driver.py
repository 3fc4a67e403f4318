"""What the drivers of DHCP clients share: how a client is booted, renewed, rebooted and made to release, and how its `Lease` is
put together from what the client was told and from what the kernel has. The clients are in dhcp_clients.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from .nodes import ENV, Node

EVERY = 0.01  # seconds between two looks
# A boot of the client, in namespaces of its own. The machine's host name must not be set by what a test's server says.
BOOT = """
hostname localhost
{mounts}
readlink /proc/self/ns/mnt >{state}/namespace.new; mv {state}/namespace.new {state}/namespace
[ -e {state}/booted ] || : >{state}/booted
[ ! -e {ipv6} ] || echo 0 >{ipv6}/disable_ipv6
{commands}
"""
# In a script or hook of a client: what it was told, complete or not there.
RECORD = 'env -0 >"{state}/told.$told.new" && mv "{state}/told.$told.new" "{state}/told.$told"'


@dataclass(frozen=True)
class Lease:
    """What a client has of one family. Lists are in the order of preference."""

    address: str
    """With the length of its prefix, as the kernel has it and after duplicate address detection; empty if there is none."""
    gateway: str
    """Of the kernel's best default route through this interface."""
    routes: frozenset[tuple[str, str]]
    """The kernel's other routes (prefix, gateway or ""), without those that it makes itself of an address. Clients add host
    routes to servers and gateways: compare with `<=`."""
    dns: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    mtu: int = 0
    """IPv4: option 26, 0 without. IPv6: what the stack uses on this interface."""
    hostname: str = ""
    server: str = ""
    """IPv4: option 54. IPv6: the server's DUID in hex, where the client tells."""
    lifetime: int = 0
    """Seconds, as the server said: option 51, or the valid lifetime of the address."""
    reason: str = ""
    """The client's own word for the event that it has this from: BOUND, RENEW, REBOOT, …"""
    seconds: float = 0.0
    """From the client's start, which brings the link up if it is down, until the address is there (IPv6: and unique). That the
    client's own process has to start is in it."""


def addressed(lease: Lease) -> bool:
    """For `where`: there is an address."""
    return bool(lease.address)


def routed(lease: Lease) -> bool:
    """For `where`: there is a gateway, with or without an address."""
    return bool(lease.gateway)


def complete(lease: Lease) -> bool:
    """For `where`: there are an address and a gateway."""
    return bool(lease.address and lease.gateway)


def leased6(lease: Lease) -> bool:
    """For `where`: there are a gateway and an address of DHCPv6. An autoconfigured one may come first, where routers advertise
    both."""
    return lease.address.endswith("/128") and bool(lease.gateway)


class Unsupported(NotImplementedError):
    """The client has no way of doing this."""


class Client:
    """What the drivers share. A subclass says how its client is started, and reads what it was told."""

    name: ClassVar[str]
    served: ClassVar[tuple[int, ...]]
    """The families that the client can do."""
    binds: ClassVar[Mapping[str, str]] = {}
    """Folders or files of the client's state, and the fixed paths that it has them at."""
    forgets: ClassVar[tuple[str, ...]] = ("told.*", "booted")
    """What of the client's state a boot starts without."""
    reads_advertisements: ClassVar[bool] = False
    """Whether the client reads router advertisements itself, so that the kernel must not."""

    def __init__(self, node: Node, ifname: str = "eth0", families: Iterable[int] = ()) -> None:
        """`families` are 4, 6 or both; all that the client can do if it is empty."""
        self.node, self.ifname = node, ifname
        self.families = tuple(families) or self.served
        assert set(self.families) <= set(self.served), f"{self.name} does not do {self.families}"
        self.state = f"/run/dhcp-clients/{self.name}-{ifname}"
        self.mtu = 0
        self.process: subprocess.Popen | None = None
        self.stack = ExitStack()

    # --- of a client ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write the client's configuration and scripts; once."""

    def commands(self) -> list[str]:
        """Shell commands that start the client in the foreground; all but the last run beside it."""
        raise NotImplementedError

    def told(self, family: int) -> dict | None:
        """The fields of Lease that the client tells, `address` without the length of its prefix ("" if the client got
        everything but an address); None if it has nothing."""
        raise NotImplementedError

    def request_renewal(self, family: int) -> None:
        """Make the client renew at once. Raises Unsupported."""
        raise Unsupported(f"{self.name} has no command that renews")

    def renewed(self, family: int, before: object) -> bool:
        """Whether the server answered since `stamp` was `before`."""
        return self.stamp(family) not in (before, None)

    def stamp(self, family: int) -> object:
        """Different after each answer of the server; None without one."""
        raise NotImplementedError

    def request_release(self) -> None:
        """Make the client give its lease back and end. Raises Unsupported."""
        raise Unsupported(f"{self.name} has no command that releases")

    # --- for tests -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Client:
        try:
            # A new guest: what an earlier block left on this node is gone.
            self.node.sh(f"rm -rf {self.state}; mkdir -p {self.state}")
            self._watch()
            self.prepare()
            for own in self.binds:
                if not self.path(own).exists():
                    self.path(own).mkdir()
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the client as a power failure does."""
        self.kill()
        self.stack.close()

    def boot(self) -> None:
        """Start the client on an interface without addresses and routes. The link stays as it is, and the client brings it up:
        a guest that reboots leaves its tap its carrier, and a bridge's port needs up to a second for one that comes back."""
        ifname = self.ifname
        self.mtu = self.mtu or int(self.node.sh(f"cat /sys/class/net/{ifname}/mtu"))
        accept_ra = 0 if self.reads_advertisements else 1
        self.node.sh(f"""
            ip link set {ifname} mtu {self.mtu}; ip -4 addr flush dev {ifname}; ip -4 route flush dev {ifname}
            if cd /proc/sys/net/ipv6/conf/{ifname}; then
                echo 1 >disable_ipv6; echo {accept_ra} >accept_ra; echo 1 >autoconf
                [ ! -e accept_ra_rt_info_max_plen ] || echo 128 >accept_ra_rt_info_max_plen
            fi
            ip neigh flush dev {ifname}; cd {self.state}; rm -rf {" ".join(self.forgets)}
        """)
        self.start()

    def reboot(self) -> None:
        """End without a release, as at a power failure, and boot with the files that survive it."""
        self.kill()
        self.boot()

    def lease(self, family: int = 4, timeout: float = 15, where: Callable[[Lease], object] = complete) -> Lease:
        """Wait until the client has a lease for which `where` is true. Raises TimeoutError, which names what there is instead."""
        end = time.monotonic() + timeout
        looked, found = None, None
        while True:
            over = time.monotonic() > end
            if (now := self._changes(family)) != looked or over:
                looked, found = now, self._read(family)
                if found and where(found):
                    return found
            if over or self.ended():
                when = "when it ended" if self.ended() else f"after {timeout} s"
                raise TimeoutError(f"{self}, IPv{family}: {found or 'no lease'} {when}\n{self.log()}")
            time.sleep(EVERY)

    def renew(self, family: int = 4, timeout: float = 15, where: Callable[[Lease], object] = complete) -> Lease:
        """Renew now; the lease as it is then. Raises TimeoutError if no server answers, and Unsupported."""
        before = self.stamp(family)
        self.request_renewal(family)
        end = time.monotonic() + timeout
        while not self.renewed(family, before):
            if time.monotonic() > end or self.ended():
                raise TimeoutError(f"{self}, IPv{family}: not renewed after {timeout} s\n{self.log()}")
            time.sleep(EVERY)
        return self.lease(family, max(end - time.monotonic(), 1), where)

    def release(self, timeout: float = 15) -> None:
        """Give the lease back; the client has ended then. Raises TimeoutError if it does not end, and Unsupported."""
        self.request_release()
        end = time.monotonic() + timeout
        while not self.ended():
            if time.monotonic() > end:
                raise TimeoutError(f"{self} did not end after {timeout} s\n{self.log()}")
            time.sleep(EVERY)
        self.kill()

    def addresses(self, family: int) -> list[str]:
        """All addresses of the interface that are not link-local, those that duplicate address detection has passed."""
        return [f"{row['local']}/{row['prefixlen']}" for row in self._kernel(family)[0]]

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        """The last lines that the client printed, for messages."""
        try:
            return "\n".join(self.path("log").read_text(errors="replace").splitlines()[-20:])
        except OSError:
            return ""

    def __repr__(self) -> str:
        return f"{self.name} on {self.node.name}"

    # --- processes and files -------------------------------------------------------------------------------------------

    def file(self, name: str) -> str:
        """A file of the client's state, as the node sees it."""
        return f"{self.state}/{name}"

    def path(self, name: str) -> Path:
        """The same file, as we see it."""
        return self.node.path(self.file(name))

    def script(self, name: str, text: str) -> None:
        """Write a script of the client. `{state}` and `{record}` stand for its folder and for noting what it was told."""
        record = RECORD.format(state=self.state)
        self.node.write(self.file(name), text.replace("{record}", record).replace("{state}", self.state))
        self.path(name).chmod(0o755)

    def start(self) -> None:
        """Start the client on the link as it is."""
        self.path("namespace").unlink(missing_ok=True)
        mounts = "\n".join(f"mount --bind {self.file(own)} {fixed}" for own, fixed in self.binds.items())
        *beside, last = self.commands()
        commands = "\n".join([*(f"{command} &" for command in beside), f"exec {last}"])
        ipv6 = f"/proc/sys/net/ipv6/conf/{self.ifname}"
        script = BOOT.format(mounts=mounts, state=self.state, ipv6=ipv6, commands=commands)
        with self.path("log").open("ab") as log:
            argv = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-ec", script]
            self.process = self.node.popen(argv, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while not self.path("namespace").exists():
            if self.ended() or time.monotonic() > end:
                raise TimeoutError(f"{self} did not start\n{self.log()}")
            time.sleep(EVERY / 5)

    def inside(self, command: str) -> None:
        """Run a shell command where the client runs, with its files."""
        assert self.process is not None
        argv = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "-u", "--", "sh", "-ec", command]
        with self.path("log").open("ab") as log:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30)

    def kill(self) -> None:
        """End all processes of the client, also those that it forked: they share its mount namespace."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            ours = self.path("namespace").read_text().strip()
        except OSError:
            ours = ""  # it did not get that far: the one process is all there is
        process.kill()
        process.wait()
        for _ in range(50):
            pids = [pid for pid in self.node.processes() if ours and _mounts_of(pid) == ours]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not pids:
                break
            time.sleep(EVERY)
        self.node.children.remove(process)

    def record(self, name: str) -> dict[str, str]:
        """The environment that a script of the client noted; empty if there is none."""
        try:
            rows = self.path(f"told.{name}").read_text(errors="replace").split("\0")
        except OSError:
            return {}
        return dict(row.split("=", 1) for row in rows if "=" in row)

    def written(self, name: str) -> object:
        """Different after each time that a file was written; None if it is not there."""
        try:
            found = self.path(name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    # --- what the kernel has -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Note when addresses and routes come."""
        argv = ["ip", "-ts", "-o", "monitor", "address", "route"]
        with self.path("monitor").open("wb") as file:
            watch = self.node.popen(argv, stdout=file, stderr=subprocess.STDOUT, env={**ENV, "TZ": "UTC"})
        self.stack.callback(self.node.children.remove, watch)
        self.stack.callback(watch.wait)
        self.stack.callback(watch.kill)
        # The program is nsenter first. A socket of the kernel's routing netlink whose groups are not 0 is listening.
        listening = re.compile(rf"^\S+ +0 +{watch.pid} +(?!0+ )[0-9a-f]+ ", re.M)
        end = time.monotonic() + 10
        while not listening.search(Path(f"/proc/{watch.pid}/net/netlink").read_text()):
            if watch.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"ip monitor on {self.node.name} did not start")
            time.sleep(EVERY / 5)

    def _changes(self, family: int) -> object:
        """Different after each change that `_read` can see."""
        return self.path("monitor").stat().st_size, self.stamp(family)

    def _kernel(self, family: int) -> tuple[list[dict], list[dict]]:
        """Addresses and routes of the interface."""
        show = f"ip -j -N -{family} addr show dev {self.ifname}; ip -j -N -{family} route show dev {self.ifname}"
        links, routes = (json.loads(line) for line in self.node.sh(show).splitlines() if line.startswith("["))
        addresses = [row for link in links for row in link.get("addr_info", ()) if row.get("scope") != "253"]
        usable = [row for row in addresses if not row.get("tentative") and not row.get("dadfailed")]
        return [row for row in usable if not row["local"].startswith("fe80:")], routes

    def _read(self, family: int) -> Lease | None:
        told = self.told(family)
        if told is None:
            return None
        addresses, routes = self._kernel(family)
        asked = told.pop("address")
        mine = [row for row in addresses if row["local"] == asked]
        seconds = self._seconds(family, asked) if asked else 0.0
        if asked and (not mine or seconds is None):
            return None  # told, and not there yet, or not noted yet
        address = f"{asked}/{mine[0]['prefixlen']}" if asked else ""
        gates = sorted((row.get("metric", 0), row["gateway"]) for row in routes if row["dst"] == "default" and "gateway" in row)
        others = frozenset(
            (row["dst"] if "/" in row["dst"] else f"{row['dst']}/{32 if family == 4 else 128}", row.get("gateway", ""))
            for row in routes
            # 2: the kernel's own, of an address.
            if row["dst"] != "default" and row.get("protocol") not in ("2", "kernel") and not row["dst"].startswith("fe80:")
        )
        if family == 6:
            told.setdefault("mtu", int(self.node.sysctl(f"ipv6/conf/{self.ifname}/mtu")))
        return Lease(
            address=address,
            gateway=gates[0][1] if gates else "",
            routes=others,
            seconds=seconds,
            **{"lifetime": mine[0].get("valid_life_time", 0) if mine else 0, **told},
        )

    def sightings(self, family: int, address: str) -> list[float]:
        """When, since the epoch, the kernel said that the address is there or has a new lifetime."""
        word = f" {'inet' if family == 4 else 'inet6'} {address}/"
        found = []
        for line in self.path("monitor").read_text().splitlines():
            stamp, _, rest = line.partition("] ")
            if word in rest and f" {self.ifname} " in rest and "tentative" not in rest and not rest.startswith("Deleted"):
                found.append(datetime.fromisoformat(stamp[1:]).replace(tzinfo=UTC).timestamp())
        return found

    def _seconds(self, family: int, address: str) -> float | None:
        """From this boot to the address; None if it has not come since."""
        began = self.path("booted").stat().st_mtime
        return next((at - began for at in self.sightings(family, address) if at > began), None)


def _mounts_of(pid: int) -> str:
    """The mount namespace of a process; empty if it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""

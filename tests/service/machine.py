"""The machine itself, as a host of guests, and the world that it is wired to: `World`.

router (a node) ── eth1, uplink of the routed network
                └─ eth2, uplink of the bridged network, VLAN 100
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.domains import Interface
from lab.guest import Nic, wired
from lab.nodes import ENV, CommandFailed, Node, dump, ran, wire
from lab.routed import call
from lab.xenstore import SCRIPTS, VERSION, Xenstore

SERVICE, SOCKET = "vmnet-hookd.service", "vmnet-hookd.socket"
LIBVIRT = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service")
HOOK = "/etc/libvirt/hooks/qemu.d/vmnet-hooks"
GATEWAY4, GATEWAY6 = "192.0.2.1", "2001:db8::1"
SLOW = 60  # seconds that something may take under emulation
CONFIG = f"""
[networks.public]
mode = "routed"
uplink = "eth1"
table = 222
table_name = "snf_routed"
ipv4 = {{ subnet = "192.0.2.0/24", gateway = "{GATEWAY4}", arp_source = "192.0.2.254" }}
ipv6 = {{ subnet = "2001:db8::/64", gateway = "{GATEWAY6}" }}

[networks.tenant]
mode = "bridged"
bridge = "tbr0"
uplink = "eth2"
vlan = 100
"""
ROUTER = f"""
for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done
ip addr add {GATEWAY4}/24 dev eth1; ip -6 addr add {GATEWAY6}/64 dev eth1 nodad
ip link set eth1 up; ip link set eth2 up
ip link add link eth2 name eth2.100 type vlan id 100; ip link set eth2.100 up; ip addr add 10.7.0.254/24 dev eth2.100
"""
# Where they are in Debian; nothing else of it is wanted here.
XEN = f"""
mkdir -p /usr/lib/xen-{VERSION} /run/xenstored /var/log/xen
cp -a /lab/xen/usr/lib/xen-{VERSION}/. /usr/lib/xen-{VERSION}/
cp -a /lab/xen/usr/bin/xenstore* /usr/bin/
cp -a /lab/xen/usr/lib/x86_64-linux-gnu/. /usr/lib/x86_64-linux-gnu/
ldconfig
"""


class Machine:
    """Answers to what `nodes.dump` and the lab ask of a `Node`."""

    name = "machine"

    def run(
        self,
        argv: Sequence[object] | str,
        input: str | None = None,
        check: bool = True,
        timeout: float = 240,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string: split at blanks) to its end."""
        words = argv.split() if isinstance(argv, str) else [str(word) for word in argv]
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=env or ENV, **stdin)
        return ran(words, done) if check else done

    def sh(self, script: str, check: bool = True, timeout: float = 240) -> str:
        """Run a shell script (stops at its first error), return what it printed."""
        return self.run(["sh", "-ec", script], check=check, timeout=timeout).stdout

    def popen(self, argv: Sequence[object], **options: object) -> subprocess.Popen:
        return subprocess.Popen(list(map(str, argv)), env=ENV, stdin=subprocess.DEVNULL, text=True, **options)

    def hook(self, domain: str, op: str, sub: str, xml: str, extra: str = "-") -> subprocess.CompletedProcess[str]:
        """Call the qemu hook as libvirt does. The exit status is the caller's to judge."""
        return self.run([HOOK, domain, op, sub, extra], input=xml, check=False)

    def script(
        self, script: str, *argv: str, env: dict[str, str] | None = None, cwd: str = "/", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of /etc/xen/scripts as xl does. The exit status is the caller's to judge."""
        return self.run([f"/etc/xen/scripts/{script}", *argv], check=False, env={**ENV, **(env or {})}, timeout=timeout)

    # systemd

    def shown(self, *properties: str, unit: str = SERVICE) -> tuple[str, ...]:
        """What `systemctl show` says."""
        found = dict(line.split("=", 1) for line in self.run(["systemctl", "show", unit]).stdout.splitlines())
        return tuple(found.get(name, "") for name in properties)

    @property
    def pid(self) -> int:
        """The agent's; 0 if it does not run."""
        return int(self.shown("MainPID")[0])

    @property
    def restarts(self) -> int:
        return int(self.shown("NRestarts")[0])

    def is_active(self, unit: str = SERVICE) -> bool:
        return self.shown("ActiveState", unit=unit)[0] == "active"

    def drop_in(self, name: str, text: str) -> None:
        """Settings for the service, from its next start on."""
        folder = Path(f"/etc/systemd/system/{SERVICE}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.conf").write_text(text)
        self.run("systemctl daemon-reload")

    def journal(self, *words: str) -> str:
        return self.run(["journalctl", "-q", "--no-pager", "-o", "short-monotonic", *words]).stdout

    # The agent

    def served(self) -> int:
        """How many calls this agent has served. Raises AssertionError if there is none."""
        status = self.run("vmnet-hook status").stderr
        found = re.search(r"^agent: runs since .* process (\d+): (\d+) calls served", status, re.M)
        assert found and int(found[1]) == self.pid, status
        return int(found[2])

    def served_by_agent(self, number: int, calls: Callable[[], object]) -> None:
        """`calls` make so many calls, and the agent serves all of them."""
        before = self.served()
        calls()
        assert self.served() == before + number

    def check(self) -> None:
        """`vmnet-hook check` finds nothing."""
        done = self.run("vmnet-hook check", check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class World:
    """The machine, its uplinks, and the router. Use as a context manager."""

    def __init__(self) -> None:
        self.host, self.router = Machine(), Node("router")
        # A libvirtd says of guests that only hooks know that they do not run, and what they have is taken away.
        self.host.run(["systemctl", "stop", *LIBVIRT])
        self.host.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        for ifname, number in (("eth1", "01"), ("eth2", "02")):
            wire(self.host, ifname, self.router, ifname, f"02:00:00:00:01:{number}", f"02:00:00:00:00:{number}")
            self.host.run(f"ip link set {ifname} up")
        self.router.sh(ROUTER)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.router.close()

    @contextmanager
    def guest(self, name: str, last: int, network: str) -> Iterator[tuple[Interface, Node]]:
        """A guest on a tap, not started."""
        mac = f"52:54:00:aa:00:{last:02x}"
        if network == "public":
            ips = (f"192.0.2.{last}", f"2001:db8::{last}")
            nic = Nic(mac, ips[0], 24, GATEWAY4, ips[1], GATEWAY6)
        else:
            ips, nic = (), Nic(mac, f"10.7.0.{last}")
        node = wired(self.host, f"tap-{name}", name, nic)
        try:
            yield Interface(mac, f"tap-{name}", network, ips), node
        finally:
            node.close()

    def start(self, name: str, nic: Interface) -> None:
        for op in ("start", "started"):
            call(self.host, name, op, nic)

    def stop(self, name: str, nic: Interface) -> None:
        for op in ("stopped", "release"):
            call(self.host, name, op, nic)

    # Xen

    def xenstored(self) -> subprocess.Popen:
        """Xen's userland where Debian has it, and a xenstored with an empty store. See lab.xenstore."""
        self.host.sh(XEN)
        for name in SCRIPTS:
            assert os.path.islink(f"/etc/xen/scripts/vmnet-{name}"), name
        command = [f"/usr/lib/xen-{VERSION}/bin/xenstored", "--no-fork", "--pid-file", "/run/xenstored/pid"]
        daemon = self.host.popen(["env", "LD_PRELOAD=/lab/xen/noxen.so", "XENSTORED_ROOTDIR=/run/xenstored", *command])
        self.host.sh("for i in $(seq 100); do xenstore-exists / && exit 0; sleep 0.1; done; exit 1")
        self.host.store = Xenstore(self.host)
        self.host.store.write("/local/domain/0/name", "Domain-0", "/local/domain/0/domid", 0)
        return daemon


def eventually(condition: Callable[[], object], timeout: float = SLOW, every: float = 0.2) -> bool:
    """Poll until `condition()` is true; whether it became so."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def domain(name: str, last: int, bridged: bool = False) -> str:
    """A domain without a disk: nothing runs in it."""
    mac = f"52:54:00:bb:00:{last:02x}"
    ips = "" if bridged else f"<v:ip address='192.0.2.{last}'/><v:ip address='2001:db8::{last}'/>"
    claim = f"<v:interface mac='{mac}' network='{'tenant' if bridged else 'public'}'>{ips}</v:interface>"
    return f"""<domain type='qemu'><name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_URL, name)}</uuid>
<metadata><v:domain xmlns:v='urn:vmnet-hooks:domain:1'>{claim}</v:domain></metadata>
<memory unit='MiB'>16</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/>
<interface type='ethernet'><mac address='{mac}'/><target dev='tap-{name}'/><model type='virtio'/></interface></devices>
</domain>"""


def state(machine: Machine) -> str:
    """`nodes.dump` once two in a row agree."""
    last = ""
    for _ in range(10):
        now = dump(machine)
        if now == last:
            return now
        last = now
        time.sleep(0.5)
    raise CommandFailed(f"the machine's state does not settle:\n{last}")

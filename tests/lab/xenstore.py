"""A dom0 without Xen: a `Node` with the Xen userland of the machine's own Debian, where a real xenstored runs (see noxen.c).

The packages are unpacked into a folder of the tests' cache, nothing is installed: overlays show their files where a dom0 has
them (the binding under /usr/lib/xen-VERSION, the xenstore-* programs in PATH, Xen's own scripts in /etc/xen/scripts), in the
node's mount namespace alone. vmnet-NAME in /etc/xen/scripts is hooks/xen/NAME, see hooks.py.

A `Vif` is what libxl and netback make before they run a script, and its `call` runs one as libxl does (recorded on a
real Xen 4.17).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .debian import CACHE, XEN, codename
from .guest import Nic, configure
from .hooks import HOOKS
from .nodes import ENV, CommandFailed, Node, wire

RELEASE = codename()
VERSION = XEN[RELEASE]
PACKAGES = (
    *(f"xen-utils-{VERSION}", "xen-utils-common", "xenstore-utils", "libxenstore4", f"libxenmisc{VERSION}", "libxencall1"),
    *("libxenevtchn1", "libxenforeignmemory1", "libxengnttab1", "libxentoollog1", "libxentoolcore1", "libxendevicemodel1"),
    "net-tools",  # Xen's own vif-route runs ifconfig
)
SHIM = Path(__file__).with_name("noxen.c")
SCRIPTS = ("vif-bridge", "vif-route", "vif-nat", "vif-setup", "network-bridge", "network-route", "network-nat")
MAC = "fe:ff:ff:ff:ff:ff"
"""What netback gives every vif."""

FETCH = f"""
apt-cache policy {PACKAGES[0]} | grep -q 'Candidate: [0-9]' || apt-get -qq update
apt-get -qq -o APT::Sandbox::User=root download {" ".join(PACKAGES)}
for deb in *.deb; do dpkg -x "$deb" .; done
rm *.deb
[ -d sbin ] || ln -s usr/sbin sbin
gcc -shared -fPIC -O1 -Wall -o noxen.so {SHIM} -ldl
"""
# As in a dom0, /etc can be written to; what is written is the node's own.
OVERLAYS = """
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay -o "lowerdir={root}/etc:/etc,upperdir=/run/etc/upper,workdir=/run/etc/work" overlay /etc
for dir in /etc/vmnet-hooks /etc/iproute2/rt_tables.d; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
for dir in bin lib; do mount -t overlay -o "lowerdir={root}/usr/$dir:/usr/$dir" overlay "/usr/$dir"; done
mount -t overlay -o "lowerdir={root}/sbin:/usr/sbin" overlay /usr/sbin
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /var/log/xen /run/xenstored
cd /etc/xen/scripts
for name in {scripts}; do ln -s "{hooks}/$name" "vmnet-$name"; done
"""


def fetched() -> Path:
    """Where Xen's userland is unpacked and the shim compiled: downloaded at the first call. Raises CommandFailed."""
    key = hashlib.sha256(" ".join(PACKAGES).encode() + SHIM.read_bytes()).hexdigest()[:12]
    done = CACHE / f"xen-userland-{RELEASE}-{key}"
    if done.exists():
        return done
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "xen-userland.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return done
        for old in CACHE.glob(f"xen-userland-{RELEASE}-*"):
            shutil.rmtree(old)
        partial = CACHE / f"{done.name}.partial"
        partial.mkdir()
        ran = subprocess.run(["sh", "-ec", FETCH], cwd=partial, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ran.returncode:
            raise CommandFailed(f"Xen's userland (Debian's, from a mirror, and gcc): {ran.stdout}{ran.stderr}")
        partial.rename(done)
    return done


class Xenstore:
    """The store, by its own programs: paths may be relative, as in scripts."""

    def __init__(self, node: Node):
        self.node = node

    def write(self, *pairs: object) -> None:
        """Write path, value, path, value …, as they are (nothing is an escape)."""
        self.node.run(["xenstore-write", "-R", "--", *pairs])

    def read(self, path: str) -> str | None:
        """The value of a key; None if it is not there."""
        done = self.node.run(["xenstore-read", "-R", path], check=False)
        return done.stdout if not done.returncode else None

    def rm(self, *paths: str) -> None:
        self.node.run(["xenstore-rm", *paths])

    def ls(self, path: str = "/") -> dict[str, str]:
        """All keys below `path`, by full path; empty if there is none. A value's quoting is that of `xenstore-ls -f`."""
        done = self.node.run(["xenstore-ls", "-f", path], check=False)
        found = {}
        for line in done.stdout.splitlines():
            key, _, value = line.partition(" = ")
            found[key] = value.removeprefix('"').removesuffix('"')
        return found


class Dom0(Node):
    """A node with Xen's userland and a xenstored of its own."""

    def __init__(self, name: str = "dom0"):
        root = fetched()
        super().__init__(name)
        try:
            self.sh(OVERLAYS.format(root=root, hooks=HOOKS / "xen", scripts=" ".join(SCRIPTS)))
            self.store = Xenstore(self)
            self.xenstored(root)
            self.store.write("/local/domain/0/name", "Domain-0", "/local/domain/0/domid", 0)
        except BaseException:
            self.close()
            raise

    def xenstored(self, root: Path | None = None) -> None:
        """Start xenstored, with an empty store."""
        command = [f"/usr/lib/xen-{VERSION}/bin/xenstored", "--no-fork", "--pid-file", "/run/xenstored/pid"]
        # Preloaded by env: nsenter has no libxenctrl to stand in for.
        words = ["env", f"LD_PRELOAD={(root or fetched()) / 'noxen.so'}", "XENSTORED_ROOTDIR=/run/xenstored", *command]
        self.daemon = self.popen(words, stderr=subprocess.DEVNULL)
        self.sh("for i in $(seq 100); do xenstore-exists / && exit 0; sleep 0.02; done; exit 1")

    def hide_binding(self) -> None:
        """Xen's Python binding is not there."""
        self.run(f"mount -t tmpfs -o ro tmpfs /usr/lib/xen-{VERSION}/lib/python")

    def hide_programs(self) -> str:
        """The xenstore-* programs are not there, also not for `store`, until what is returned is run."""
        mount = self.run("findmnt -n -o OPTIONS -M /usr/bin").stdout.strip()
        self.run("umount -l /usr/bin")
        return f"mount -t overlay -o {mount} overlay /usr/bin"

    def script(
        self,
        script: str,
        *argv: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout: float = 45,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of /etc/xen/scripts (or a path) as xl does. The exit status is the caller's to judge."""
        return self.run(self._command(script, cwd, argv), check=False, env={**ENV, **(env or {})}, timeout=timeout)

    def script_started(self, script: str, *argv: str, env: Mapping[str, str] | None = None, cwd: str = "/") -> subprocess.Popen:
        """The same, without waiting for its end; its output is to be read from the process."""
        return self.popen(
            self._command(script, cwd, argv), env={**ENV, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _command(self, script: str, cwd: str, argv: tuple[str, ...]) -> list[str]:
        path = Path("/etc/xen/scripts", script)
        words = self.program(path, *argv) if path.name.startswith("vmnet-") else [str(path), *argv]
        return ["env", "-C", cwd, *words]


class Vif:
    """A guest's network interface: its trees in the store, the net device (down, not renamed), and a guest behind it.

    `keys` are what the domain's configuration adds to the backend: bridge, ip, vifname, mtu, rate, gatewaydev, vlan.
    """

    def __init__(
        self,
        dom0: Dom0,
        domid: int = 1,
        devid: int = 0,
        *,
        name: str = "",
        mac: str = "",
        script: str = "vmnet-vif-bridge",
        hvm: bool = False,
        device: bool = True,
        **keys: object,
    ):
        self.dom0, self.domid, self.devid, self.script, self.hvm = dom0, domid, devid, script, hvm
        self.name = name or f"dom{domid}"
        self.mac = mac or f"00:16:3e:00:{domid % 256:02x}:{devid:02x}"
        self.ifname, self.tap = f"vif{domid}.{devid}", f"vif{domid}.{devid}-emu"
        self.backend = f"/local/domain/0/backend/vif/{domid}/{devid}"
        self.frontend = f"/local/domain/{domid}/device/vif/{devid}"
        self.keys = {key: str(value) for key, value in keys.items()}
        self.guest: Node | None = None
        self.register()
        if device:
            self.device()

    def register(self) -> None:
        """What libxl writes before the script's first call."""
        values = {
            "frontend": self.frontend,
            "frontend-id": self.domid,
            "online": 1,
            "state": 2,
            "script": f"/etc/xen/scripts/{self.script}",
            "mac": self.mac,
            "handle": self.devid,
            "type": "vif_ioemu" if self.hvm else "vif",
            "hotplug-status": "",
            **self.keys,
        }
        pairs = [word for key, value in values.items() for word in (f"{self.backend}/{key}", value)]
        front = {"backend": self.backend, "backend-id": 0, "state": 1, "handle": self.devid, "mac": self.mac}
        pairs += [word for key, value in front.items() for word in (f"{self.frontend}/{key}", value)]
        self.dom0.store.write(f"/local/domain/{self.domid}/name", self.name, *pairs)

    def device(self, ip4: str = "", prefix4: int = 24, gateway4: str = "", ip6: str = "", gateway6: str = "") -> Node:
        """Make the net device as netback does, its other end eth0 of a guest that believes what the arguments say."""
        if self.guest is None:
            self.guest = Node(f"guest-{self.domid}.{self.devid}")
        wire(self.dom0, self.ifname, self.guest, "eth0", mac_a=MAC, mac_b=self.mac)
        # Having been up once is something that the kernel does not forget (qdisc, multicast): so it was, before us.
        self.dom0.sh(f"ip link set {self.ifname} up; ip link set {self.ifname} down")
        self.configure(ip4, prefix4, gateway4, ip6, gateway6)
        return self.guest

    def configure(self, ip4: str = "", prefix4: int = 24, gateway4: str = "", ip6: str = "", gateway6: str = "") -> Node:
        """Give the guest's eth0 its addresses."""
        configure(self.guest, Nic(self.mac, ip4, prefix4, gateway4, ip6, gateway6))
        return self.guest

    def close(self) -> None:
        if self.guest:
            self.guest.close()

    def __enter__(self) -> Vif:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def env(self) -> dict[str, str]:
        """What libxl adds to xl's own environment."""
        return {
            "XENBUS_PATH": f"backend/vif/{self.domid}/{self.devid}",
            "XENBUS_TYPE": "vif",
            "XENBUS_BASE_PATH": "backend",
            "vif": self.ifname,
            "script": f"/etc/xen/scripts/{self.script}",
            "netdev": self.keys.get("gatewaydev", ""),
        } | ({"INTERFACE": self.tap} if self.hvm else {})

    def call(
        self, command: str, *argv: str, script: str = "", type_if: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script for one command, as libxl does."""
        words = self._words(command, type_if, argv)
        return self.dom0.script(script or self.script, *words, env={**self.env(), **(env or {})})

    def started(self, command: str, *argv: str, script: str = "", type_if: str = "") -> subprocess.Popen:
        """`call`, without waiting."""
        return self.dom0.script_started(script or self.script, *self._words(command, type_if, argv), env=self.env())

    @staticmethod
    def _words(command: str, type_if: str, argv: tuple[str, ...]) -> list[str]:
        return [command, f"type_if={type_if or ('tap' if command in ('add', 'remove') else 'vif')}", *argv]

    def leave(self) -> None:
        """What has happened when libxl calls `offline`: netback and the frontend are gone, the backend's tree is not."""
        for ifname in (self.keys.get("vifname", self.ifname), self.ifname):
            self.dom0.run(["ip", "link", "del", ifname], check=False)
        self.dom0.store.write(f"{self.backend}/state", 6, f"{self.backend}/online", 0)
        self.dom0.store.rm(f"/local/domain/{self.domid}", f"{self.backend}/hotplug-status")

    def forget(self) -> None:
        """What libxl does after `offline`."""
        self.dom0.store.rm(self.backend)

    @property
    def status(self) -> str | None:
        return self.dom0.store.read(f"{self.backend}/hotplug-status")

    @property
    def error(self) -> str | None:
        return self.dom0.store.read(f"{self.backend}/hotplug-error")

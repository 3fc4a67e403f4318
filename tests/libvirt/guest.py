"""Domains for a libvirt host: XML, and a running guest's serial console as a way to run commands in it."""

from __future__ import annotations

import itertools
import re
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import guest_image
from lab.nodes import Node

NAMESPACE = "urn:vmnet-hooks:domain:1"
READY = 60  # seconds; a boot takes 3 s on an idle machine, much longer when others use it too


@dataclass(frozen=True)
class Nic:
    """One <interface>. `network`: claimed in the metadata; None: left to what else may claim it. `source`: libvirt's network."""

    mac: str
    kind: str = "ethernet"
    dev: str | None = None
    bridge: str | None = None
    network: str | None = None
    ips: tuple[str, ...] = ()
    script: str | None = None
    downscript: str | None = None
    source: str | None = None

    def xml(self) -> str:
        parts = [f"<mac address='{self.mac}'/>", "<model type='virtio'/>"]
        if self.bridge:
            parts.append(f"<source bridge='{self.bridge}'/>")
        if self.source:
            parts.append(f"<source network='{self.source}'/>")
        if self.dev:
            parts.append(f"<target dev='{self.dev}'/>")
        if self.script:
            parts.append(f"<script path={quoteattr(self.script)}/>")
        if self.downscript:
            parts.append(f"<downscript path={quoteattr(self.downscript)}/>")
        return f"<interface type='{self.kind}'>{''.join(parts)}</interface>"

    def metadata(self) -> str:
        ips = "".join(f"<vmnet:ip address='{ip}'/>" for ip in self.ips)
        return f"<vmnet:interface mac='{self.mac}' network='{self.network}'>{ips}</vmnet:interface>"


def serial(name: str, kind: str) -> str:
    """Where a domain's console log (`log`) or command line (`sock`) is on its host."""
    return f"/run/guests/{name}.{kind}"


def domain_xml(name: str, nics: Sequence[Nic], cmdline: str | None = None) -> str:
    """A domain of ours. With `cmdline` it boots the test guest; without, there is nothing to run (create it paused)."""
    boot = ""
    if cmdline is not None:
        kernel, initrd = guest_image.build()
        boot = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 {cmdline}</cmdline>"
    claimed = "".join(nic.metadata() for nic in nics if nic.network)
    metadata = ""
    if claimed:
        metadata = f"<metadata><vmnet:domain xmlns:vmnet='{NAMESPACE}'>{claimed}</vmnet:domain></metadata>"
    # One UUID per name: what libvirt and the hook remember of it is the same domain's in every start.
    return f"""<domain type='qemu'>
  <name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_URL, name)}</uuid>{metadata}
  <memory unit='MiB'>{96 if boot else 16}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {"".join(nic.xml() for nic in nics)}
    <serial type='file'><source path='{serial(name, "log")}'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='{serial(name, "sock")}'/><target port='1'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


@dataclass(frozen=True)
class Result:
    status: int
    output: str


class Guest:
    """A booted test guest, through its second serial line."""

    numbers = itertools.count(1)

    def __init__(self, host: Node, name: str):
        self.host, self.name = host, name

    def console(self) -> str:
        try:
            return self.host.path(serial(self.name, "log")).read_text(errors="replace")
        except FileNotFoundError:
            return "(no console log)"

    def ready(self, timeout: float = READY) -> Guest:
        """Wait until the guest takes commands; what was sent before it listened is lost, so ask again."""
        end = time.monotonic() + timeout
        while True:
            try:
                self.run("true", timeout=1)
                return self
            except OSError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"guest {self.name} did not come up within {timeout} s:\n{self.console()}")
            time.sleep(0.1)

    def run(self, command: str, timeout: float = 30) -> Result:
        """Run a shell command in the guest. Raises OSError (TimeoutError too) when it does not answer."""
        mark = f"r{next(self.numbers)}x{time.monotonic_ns() % 1_000_000}"
        end = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout)
            line.connect(str(self.host.path(serial(self.name, "sock"))))
            line.sendall(f"\n{mark} {command}\n".encode())
            got = b""
            while not (found := re.search(rb"(?s)^(.*?)@@%s (\d+)\r?\n" % mark.encode(), got)):
                line.settimeout(max(0.01, end - time.monotonic()))
                data = line.recv(65536)
                if not data:
                    raise ConnectionResetError(f"guest {self.name} is gone")
                got += data
        return Result(int(found[2]), found[1].decode(errors="replace").replace("\r\n", "\n"))

    def ping(self, address: str, count: int = 2, tries: int = 10) -> str:
        """Ping from the guest until all of `count` came back; returns ping's output. The first try may fall into the
        guest's duplicate address detection."""
        result = Result(1, "")
        for _ in range(tries):
            result = self.run(f"ping -c {count} -i 0.2 -W 1 {address}")
            if result.status == 0 and " 0% packet loss" in result.output:
                return result.output
            time.sleep(0.3)
        state = self.run("ip addr; ip route; ip -6 route; ip neigh").output
        raise AssertionError(f"guest {self.name} does not reach {address}:\n{result.output}\n{state}")

    def unreachable(self, address: str) -> bool:
        """Whether not one of three pings came back."""
        return self.run(f"ping -c 3 -i 0.2 -W 1 {address}").status != 0


def ping_from(node: Node, address: str, count: int = 2, tries: int = 10) -> str:
    """Ping from a node until all of `count` came back."""
    for _ in range(tries):
        done = node.run(["ping", "-n", "-c", count, "-i", "0.2", "-W", "1", address], check=False)
        if done.returncode == 0 and " 0% packet loss" in done.stdout:
            return done.stdout
        time.sleep(0.3)
    raise AssertionError(f"{node.name} does not reach {address}:\n{done.stdout}{done.stderr}")

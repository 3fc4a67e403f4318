"""The server of a network: dnsmasq with a configuration of ours, for DHCP, router advertisements, DNS and TFTP."""

import shlex
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar, Self

from ..resource import Resource, cached
from .address import HostName


@dataclass(frozen=True)
class Dnsmasq(Resource):
    """One server. `conf` is its configuration, `hosts` are its static leases, which it reads anew on SIGHUP. `unit` tells whether
    systemd runs it, `keep` whether its leases outlive it, `runs` whether there is a process that was started with it."""

    name: str
    conf: str
    hosts: str = ""
    unit: bool = False
    keep: bool = True
    runs: bool = True

    kind = "dnsmasq"
    # After addresses, before the names of guests: it watches their folder from its start on.
    rank = 44
    composite = True
    marked = True
    DIRECTORY: ClassVar[str] = "/run/vmnet-dnsmasq"
    STATE: ClassVar[str] = "/var/lib/vmnet-hooks/dnsmasq"
    """A folder for each network, which is the server's own."""
    USER: ClassVar[int] = 65534
    """The user nobody, where systemd does not run the server."""

    @cached
    def key(self) -> str:
        return self.key_of(self.name)

    @staticmethod
    def key_of(name: str) -> str:
        return f"dnsmasq {name}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.interface,)

    @property
    def interface(self) -> str:
        """The link that it serves."""
        return self.conf.partition("\ninterface=")[2].partition("\n")[0]

    @property
    def serves(self) -> str:
        """What it does, for the admin."""
        lines = self.conf.splitlines()
        names = "" if "port=0" in lines else "DNS"
        leases = "DHCP" if "dhcp-authoritative" in lines else ""
        return f"{', '.join(filter(None, (leases, names)))} for {self.name}"

    @staticmethod
    def conf_of(name: str) -> str:
        return f"{Dnsmasq.DIRECTORY}/{name}.conf"

    @staticmethod
    def hosts_of(name: str) -> str:
        return f"{Dnsmasq.DIRECTORY}/{name}.hosts"

    @staticmethod
    def names_of(name: str) -> str:
        """The folder of the names of guests: hosts(5), a file for each."""
        return f"{HostName.OF_NETWORKS}/{name}"

    @staticmethod
    def state_of(name: str) -> str:
        return f"{Dnsmasq.STATE}/{name}"

    @staticmethod
    def leases_of(name: str) -> str:
        return f"{Dnsmasq.state_of(name)}/leases"

    @staticmethod
    def pid_of(name: str) -> str:
        return f"{Dnsmasq.state_of(name)}/pid"

    @property
    def unit_name(self) -> str:
        return f"vmnet-dnsmasq@{self.name}.service"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that starts it without systemd. dnsmasq gives up CAP_NET_RAW if it drops root's privileges by itself, and
        then can't serve a bridge that is made anew."""
        caps = "-all,+net_admin,+net_raw,+net_bind_service"
        return (
            *("setpriv", f"--reuid={self.USER}", f"--regid={self.USER}", "--clear-groups"),
            *(f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}", "--no-new-privs"),
            *("dnsmasq", f"--conf-file={self.conf_of(self.name)}"),
        )

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        # Stopped, or with files that were edited, it is ours no less.
        return True

    def difference(self, have: Self) -> str:
        if have.conf != self.conf:
            return f"{self.conf_of(self.name)} was changed"
        if have.hosts != self.hosts:
            return f"{self.hosts_of(self.name)} was changed"
        return "does not run with this configuration" if not have.runs else "runs, and should not"

    def remedy(self, have: Self | None) -> str:
        return "vmnet-hook repair"

    def set_command(self, have: Self | None) -> str:
        folders = f"mkdir -p {self.names_of(self.name)}"
        if not self.unit:
            folders += f"; install -d -o {self.USER} {self.state_of(self.name)}"
        lines = [folders]
        for path, text, before in (
            (self.conf_of(self.name), self.conf, have.conf if have else None),
            (self.hosts_of(self.name), self.hosts, have.hosts if have else None),
        ):
            if text != before:
                lines.append(f"printf %s {shlex.quote(text)} > {path}")
        return "\n".join((*lines, self._start(have)))

    def _start(self, have: Self | None) -> str:
        pid = f"$(cat {self.pid_of(self.name)})"
        if not self.runs:
            return self._stop()
        if have and have.runs and have.conf == self.conf:
            return f"systemctl reload {self.unit_name}" if self.unit else f"kill -HUP {pid}"
        if self.unit:
            return f"systemctl restart {self.unit_name}"
        stop = f"{self._stop()}; sleep 1; " if have and have.runs else ""
        return stop + shlex.join(self.command)

    def _stop(self) -> str:
        return f"systemctl stop {self.unit_name}" if self.unit else f"kill $(cat {self.pid_of(self.name)})"

    def unset_command(self) -> str:
        gone = f"{self.conf_of(self.name)} {self.hosts_of(self.name)} {self.names_of(self.name)}"
        if not self.keep:
            gone += f" {self.state_of(self.name)}"
        return f"{self._stop()}; rm -rf {gone}"

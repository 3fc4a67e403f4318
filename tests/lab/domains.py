"""Domain descriptions as libvirt's hooks get them, and as `domains.d` holds them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

URN = "urn:vmnet-hooks:domain:1"


@dataclass(frozen=True)
class Interface:
    """One NIC of a domain. `network` empty: nothing but the bridge (or nothing at all) claims it."""

    mac: str
    tap: str = ""
    network: str = ""
    ips: Sequence[str] = ()
    bridge: str = ""
    filter: bool = True
    roles: Sequence[str] | None = None


def domain_xml(name: str, *nics: Interface, stage: str = "started", metadata: bool = True) -> str:
    """The XML on a hook's stdin.

    `stage` release: as libvirt gives it then, without any <target dev>; stopped: `vnetN` names are stripped as well,
    but these tests use names of their own, which stay. Without `metadata` the description must come from domains.d.
    """
    running = stage in ("start", "started", "reconnect")
    told = [nic for nic in nics if nic.network]
    meta = ""
    if metadata and told:
        meta = (
            f"<metadata><vmnet:domain xmlns:vmnet='{URN}'>"
            + "".join(
                f"<vmnet:interface mac='{nic.mac}' network='{nic.network}'"
                + ("" if nic.filter else " filter='no'")
                + ("" if nic.roles is None else f" roles='{','.join(nic.roles)}'")
                + ">"
                + "".join(f"<vmnet:ip address='{ip}'/>" for ip in nic.ips)
                + "</vmnet:interface>"
                for nic in told
            )
            + "</vmnet:domain></metadata>"
        )
    devices = ""
    for index, nic in enumerate(nics):
        source = f"<source bridge='{nic.bridge}'/>" if nic.bridge else ""
        target = f"<target dev='{nic.tap}'/>" if nic.tap and stage != "release" else ""
        alias = f"<alias name='net{index}'/>" if running else ""
        devices += (
            f"<interface type='{'bridge' if nic.bridge else 'ethernet'}'><mac address='{nic.mac}'/>{source}{target}"
            f"<model type='virtio'/>{alias}</interface>"
        )
    ident = " id='1'" if running else ""
    return (
        f"<domain type='qemu'{ident}><name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid>{meta}"
        f"<memory unit='KiB'>65536</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>"
        f"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>\n"
    )


def domain_toml(*nics: Interface) -> str:
    """The same as a domains.d file."""
    return "".join(
        f'[[interfaces]]\nmac = "{nic.mac}"\n'
        + (f'ifname = "{nic.tap}"\n' if nic.tap else "")
        + f'network = "{nic.network}"\n'
        + (f"ips = [{', '.join(repr(ip) for ip in nic.ips)}]\n".replace("'", '"') if nic.ips else "")
        + ("" if nic.filter else "filter = false\n")
        + ("" if nic.roles is None else f"roles = [{', '.join(repr(role) for role in nic.roles)}]\n".replace("'", '"'))
        for nic in nics
    )

"""Reading what the admin declares: /etc/vmnet-hooks/vmnet.toml, conf.d/*.toml and domains.d/DOMAIN.toml.

An `Option` row sits beside the mode, or the kind of link, that uses it; this file knows how to read and check rows, not
what they mean.
"""

import os
import tomllib
from typing import Any

from .. import RUN, values
from ..errors import ConfigError, one_line
from ..model.declaration import DIRECTORY, Config, Declared, Network, Option, Required, nearest, parse_options
from ..model.guest import Claim
from . import SECTIONS, implied

RUNTIME = f"{RUN}/conf.d"
"""Where a command (Xen's network-bridge) declares parts, until it takes them back or the host boots: read beside conf.d."""
MAX_BYTES = 4 << 20


def claims(declared: Config, domain: str) -> list[Claim]:
    """Return what domains.d/DOMAIN.toml claims; nothing if there is no such file. Raise ConfigError."""
    if not domain or "/" in domain or "\0" in domain or domain.startswith(".") or len(domain.encode()) > 200:
        return []
    path = f"{declared.directory}/domains.d/{domain}.toml"
    return _claims(path) if os.path.exists(path) else []


def claims_by_tap(declared: Config, ifname: str) -> tuple[str, Claim] | None:
    """Return the domain and the claim that domains.d makes for a tap's name. Raise ConfigError if two domains claim it."""
    found = []
    for path in toml_files(f"{declared.directory}/domains.d"):
        domain = os.path.basename(path).removesuffix(".toml")
        found += [(domain, claim) for claim in _claims(path) if claim.ifname == ifname]
    if len(found) > 1:
        raise ConfigError(f"{found[1][1].source}: ifname {ifname} is also claimed in {found[0][1].source}; remove one")
    return found[0] if found else None


def toml_files(directory: str) -> list[str]:
    """Return the *.toml files of a folder in byte order; none if there is no folder. Raise ConfigError if it can't be read."""
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(".toml") and not n.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}; check its permissions") from None
    return [os.path.join(directory, name) for name in names]


def read_toml(path: str) -> dict[str, Any]:
    """Return a TOML file, parsed. Raise ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB; is it the right file?")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; check that it is a file that root can read") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except ValueError as error:
        # TOMLDecodeError, and what int() raises for a number with thousands of digits.
        raise ConfigError(f"{path}: not TOML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be read as TOML") from None


def load(directory: str | None = None) -> Config:
    """Read and check a whole configuration, by default the host's. No file at all is an empty one. Raise ConfigError."""
    directory = directory or DIRECTORY
    paths = [f"{directory}/vmnet.toml"] if os.path.exists(f"{directory}/vmnet.toml") else []
    paths += toml_files(f"{directory}/conf.d")
    if directory == DIRECTORY and os.access(RUNTIME, os.R_OK | os.X_OK):
        paths += toml_files(RUNTIME)
    found: dict[str, Declared] = {}
    for path in paths:
        for section, tables in read_toml(path).items():
            if section not in SECTIONS:
                raise ConfigError(f"{path}: unknown key {one_line(repr(section))}{nearest(section, SECTIONS)}")
            if not isinstance(tables, dict):
                raise ConfigError(f"{path}: {section}: must be tables, [{section}.NAME]")
            for name, table in tables.items():
                part = SECTIONS[section].read(name, table, path)
                if part.id in found:
                    raise part.error("", f"already declared in {found[part.id].source}; remove one")
                found[part.id] = part
    networks = {part.name: part for part in found.values() if isinstance(part, Network)}
    parts = {key: part for key, part in found.items() if not isinstance(part, Network)}
    for network in networks.values():
        for part in implied(network):
            parts.setdefault(part.id, part)
    declared = Config(networks, directory, parts)
    check_together(declared)
    return declared


def check_together(declared: Config) -> None:
    """Raise ConfigError if parts that are right by themselves contradict each other."""
    by_section: dict[str, list[Declared]] = {}
    for part in (*declared.networks.values(), *declared.parts.values()):
        by_section.setdefault(part.kind.section, []).append(part)
    for parts in by_section.values():
        parts[0].kind.check_together(parts, declared)


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of addresses, ["192.0.2.10"]')
    return tuple(values.address_or_prefix(item) for item in value)


INTERFACE_OPTIONS = (
    Option("network", values.name, Required, "name the network that this NIC is on", '"public"'),
    Option(
        "mac",
        values.mac,
        "",
        "the NIC's MAC address; may be left out if `ifname` is given and the front end tells the MAC",
        '"52:54:00:12:34:56"',
    ),
    Option("ifname", values.ifname, "", "the tap's name; plain QEMU's ifup and ifdown know nothing else", '"tap0"'),
    Option(
        "ips",
        _addresses,
        (),
        "the guest's addresses, IPv4 and IPv6; modes bridged and hostroute: subnets too, 192.0.2.0/28",
        '["192.0.2.10", "2001:db8::10"]',
    ),
    Option(
        "filter",
        values.boolean,
        True,
        "let only the guest's own MAC and addresses out of the tap (bridged networks: see antispoof)",
        "false",
    ),
    Option("vlan", values.integer(1, 4094), None, "VLAN-aware bridges: the NIC's untagged VLAN, instead of the network's", "100"),
    Option(
        "tagged",
        values.vids,
        None,
        "VLAN-aware bridges: the VLANs that the NIC gets tagged, instead of the network's",
        '[10, "20-30"]',
    ),
)
"""The keys of an `[[interfaces]]` table in domains.d/DOMAIN.toml."""


def _claims(path: str) -> list[Claim]:
    document = read_toml(path)
    for key in document:
        if key != "interfaces":
            raise ConfigError(f"{path}: unknown key {one_line(repr(key))}{nearest(key, ['interfaces'])}")
    tables = document.get("interfaces", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{path}: interfaces: must be a list of tables, [[interfaces]]")
    claims = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: interfaces[{number}]"
        row = parse_options(INTERFACE_OPTIONS, table, where)
        if not row["mac"] and not row["ifname"]:
            raise ConfigError(f"{where}: names neither a mac nor an ifname; add one")
        trunk = (row["vlan"], row["tagged"])
        claims.append(Claim(row["network"], row["mac"], row["ifname"], row["ips"], row["filter"], where, *trunk))
    return claims

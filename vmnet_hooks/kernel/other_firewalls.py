"""Other firewalls that drop guests' packets whatever we set up. A packet has to pass the chains of every table at a hook, so that
`accept` in ours does not overrule `drop` in theirs."""

import json
import os
import re
import subprocess
from collections.abc import Collection

from .objects import sysctl
from .objects.nft import Nft

_LOSING = ("drop", "reject")
_DEPTH = 16
"""Jumps from chain to chain that are followed: the kernel's NFT_JUMP_STACK_SIZE."""
_FORWARD = {"ip": "IPv4", "ip6": "IPv6", "inet": "IPv4 and IPv6", "bridge": "bridged"}


def hazards(nft: Nft, bridged: bool, anycast: bool) -> list[str]:
    """Return one line for each problem: what breaks, and the remedy. `bridged`: there are bridges of ours. `anycast`: one of them
    has a gateway address that other nodes have too."""
    dropping = _dropping(nft) + _legacy()
    found = [
        f"{where}: {fate}: {what} packets that are forwarded are lost unless a rule there accepts them; {remedy}"
        for where, fate, what, remedy in dropping
    ]
    if anycast and sysctl.read("net/bridge/bridge-nf-call-iptables") == "1":
        found.append(
            "net.bridge.bridge-nf-call-iptables is 1: what guests send to a shared gateway leaves untranslated by NAT; "
            "run `sysctl -w net.bridge.bridge-nf-call-iptables=0` (and put it into /etc/sysctl.d)"
        )
    if bridged:
        for name, word, version in (
            ("iptables", "iptables", "IPv4"),
            ("ip6tables", "ip6tables", "IPv6"),
            ("arptables", "arptables", "ARP"),
        ):
            if sysctl.read(f"net/bridge/bridge-nf-call-{name}") == "1" and (dropping or name == "arptables"):
                if name == "arptables" and not _arptables():
                    continue
                found.append(
                    f"net.bridge.bridge-nf-call-{name} is 1: {version} between guests of one bridge passes {word} too; "
                    f"run `sysctl -w net.bridge.bridge-nf-call-{name}=0` (and put it into /etc/sysctl.d), or accept it there"
                )
    return found


def _dropping(nft: Nft) -> list[tuple[str, str, str, str]]:
    """Return the chains in which a packet is lost that no rule accepts: (chain, how, of which family, remedy)."""
    output, error = nft.run("list chains", 1 << 4)
    if error:
        return []
    found = []
    chains = [item["chain"] for item in json.loads(output)["nftables"] if "chain" in item]
    names = {chain["name"] for chain in chains}
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") != "forward" or table.startswith("vmnet") or family not in _FORWARD:
            continue
        fate = _fate(nft, family, table, name) or f"policy {chain.get('policy')}"
        if fate in ("policy drop", *_LOSING):
            how = fate if fate == "policy drop" else f"ends in {fate}"
            found.append((f"nft chain {family} {table} {name}", how, _FORWARD[family], _remedy(family, table, name, names)))
    return found


def _fate(nft: Nft, family: str, table: str, chain: str, depth: int = 0) -> str:
    """Return the verdict of a chain on a packet that no rule of it matches: accept, drop, reject; "" if it has none."""
    for verdict, target in nft.verdicts(family, table, chain):
        if verdict in ("jump", "goto"):
            found = _fate(nft, family, table, target, depth + 1) if depth < _DEPTH else ""
            if found or verdict == "goto":
                return found
        elif verdict == "return":
            return ""
        else:
            return verdict
    return ""


def _remedy(family: str, table: str, name: str, names: Collection[str]) -> str:
    if table == "firewalld":
        # The zone lets guests out; what comes in has the zone of the uplink, and needs a policy.
        zone = ("--zone=trusted --add-interface=BRIDGE-OR-TAP (or --add-source=SUBNET)", "--new-policy=vmnet")
        policy = [
            f"--policy=vmnet {word}" for word in ("--add-ingress-zone=ANY", "--add-egress-zone=trusted", "--set-target=ACCEPT")
        ]
        commands = [f"firewall-cmd --permanent {words}" for words in (*zone, *policy)]
        return f"for firewalld's: {'; '.join((*commands, 'firewall-cmd --reload'))}"
    if "DOCKER-USER" in names and (family, table, name) == ("ip", "filter", "FORWARD"):
        return "for Docker's: iptables -I DOCKER-USER -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o"
    if name == "FORWARD" and {"ufw-before-forward", "ufw6-before-forward"} & set(names):
        return "for ufw's: ufw route allow in on BRIDGE-OR-TAP, and the same with out"
    return f"nft insert rule {family} {table} {name} iifname BRIDGE-OR-TAP accept, and the same with oifname"


def _legacy() -> list[tuple[str, str, str, str]]:
    found = []
    for program, names, what in (
        ("iptables-legacy", "/proc/net/ip_tables_names", "IPv4"),
        ("ip6tables-legacy", "/proc/net/ip6_tables_names", "IPv6"),
    ):
        # Running the program loads the kernel module, so it is run only where the table is in use.
        rules = _output(program, "-S", "FORWARD").splitlines() if _tables(names) else []
        remedy = f"{program} -I FORWARD -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o"
        if rules and re.match("-A FORWARD -j (DROP|REJECT)", rules[-1]):
            found.append((f"{program} FORWARD", f"ends in {rules[-1].split()[3].lower()}", what, remedy))
        elif "-P FORWARD DROP" in rules:
            found.append((f"{program} FORWARD", "policy drop", what, remedy))
    return found


def _tables(path: str) -> bool:
    try:
        with open(path) as file:
            return "filter" in file.read().split()
    except OSError:
        return False


def _arptables() -> bool:
    return os.path.exists("/proc/net/arp_tables_names") and _tables("/proc/net/arp_tables_names")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""

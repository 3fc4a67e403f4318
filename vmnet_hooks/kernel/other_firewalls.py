"""Other firewalls that drop guests' packets whatever we set up. A packet has to pass the chains of every table at a hook, so that
`accept` in ours does not overrule `drop` in theirs."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

from .objects import sysctl
from .objects.nft import Nft
from .verdicts import ANY, ESTABLISHED, NEW, Packet, Rule, fate

_LOSING = ("drop", "reject")
_FORWARD = {"ip": "IPv4", "ip6": "IPv6", "inet": "IPv4 and IPv6", "bridge": "bridged"}
_WAYS = {"forward": ("iif", "oif"), "prerouting": ("iif",), "postrouting": ("oif",)}
"""Where guests' links are known, by hook."""


class Guests(NamedTuple):
    """The links of guests whose packets a chain of a family sees: taps and bridges whose packets are routed, and taps that are
    ports of bridges."""

    routed: Collection[str] = ()
    ports: Collection[str] = ()

    def of(self, family: str) -> Collection[str]:
        return self.ports if family == "bridge" else self.routed


def hazards(nft: Nft, bridged: bool, anycast: bool, guests: Guests) -> list[str]:
    """Return one line for each problem: what breaks, and the remedy. `bridged`: there are bridges of ours. `anycast`: one of them
    has a gateway address that other nodes have too."""
    dropping = _dropping(nft, guests) + _legacy(guests)
    found = [
        f"{where}: {how}: {what} packets that are forwarded are lost unless a rule there accepts them; {remedy}"
        for where, how, what, remedy in dropping
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


def _dropping(nft: Nft, guests: Guests) -> list[tuple[str, str, str, str]]:
    """Return the chains in which a packet is lost that no rule accepts: (chain, how, of which family, remedy)."""
    output, error = nft.run("list chains", 1 << 4)
    if error:
        return []
    found = []
    chains = [item["chain"] for item in json.loads(output)["nftables"] if "chain" in item]
    names = {chain["name"] for chain in chains}
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        ways = _WAYS.get(chain.get("hook", ""))
        if ways is None or table.startswith("vmnet") or family not in _FORWARD or chain.get("type") != "filter":
            continue
        rules_of = cache(partial(nft.rules, family, table))
        if how := _loss(rules_of, name, chain.get("policy", ""), ways, guests.of(family)):
            remedy = _remedy(family, table, name, names)
            if ways != _WAYS["forward"]:
                remedy = (
                    f"nft insert rule {family} {table} {name} {ways[0]}name BRIDGE-OR-TAP accept, and the same with the uplink"
                )
            found.append((f"nft chain {family} {table} {name}", how, _FORWARD[family], remedy))
    return found


def _loss(rules_of: Callable[[str], Sequence[Rule]], chain: str, policy: str, ways: Sequence[str], links: Collection[str]) -> str:
    """Return how a chain loses packets of guests with these links; "" if it does not. Without a guest: how it would. Packets to a
    guest may be accepted as answers alone: that is a firewall's choice."""
    last = fate(rules_of, chain, ANY) or policy

    def is_lost(packet: Packet) -> bool:
        return (fate(rules_of, chain, packet) or policy) in _LOSING

    def is_cut(link: str) -> bool:
        new, answers = Packet(oif=link, state=NEW), Packet(oif=link, state=ESTABLISHED)
        return ("iif" in ways and is_lost(Packet(link, state=NEW))) or ("oif" in ways and is_lost(new) and is_lost(answers))

    cut = next(filter(is_cut, sorted(links)), "")
    if last in _LOSING:
        how = f"ends in {last}" if fate(rules_of, chain, ANY) else f"policy {last}"
        return how if cut or not links else ""
    return f"a rule drops those of {cut}" if cut else ""


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


def _legacy(guests: Guests) -> list[tuple[str, str, str, str]]:
    found = []
    for program, names, what in (
        ("iptables-legacy", "/proc/net/ip_tables_names", "IPv4"),
        ("ip6tables-legacy", "/proc/net/ip6_tables_names", "IPv6"),
    ):
        # Running the program loads the kernel module, so it is run only where the table is in use.
        lines = [shlex.split(line) for line in (_output(program, "-S").splitlines() if _tables(names) else [])]
        chains: dict[str, list[Rule]] = {}
        for words in lines:
            if words[0] == "-A" and (rule := _legacy_rule(words[2:])):
                chains.setdefault(words[1], []).append(rule)
        rules_of = partial(_rules_in, chains)
        policy = "drop" if ["-P", "FORWARD", "DROP"] in lines else "accept"
        if how := _loss(rules_of, "FORWARD", policy, _WAYS["forward"], guests.routed):
            remedy = f"{program} -I FORWARD -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o"
            found.append((f"{program} FORWARD", how, what, remedy))
    return found


def _rules_in(chains: Mapping[str, Sequence[Rule]], chain: str) -> Sequence[Rule]:
    return chains.get(chain, ())


_STATES = {"NEW": NEW, "ESTABLISHED": ESTABLISHED}
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}


def _legacy_rule(words: Sequence[str]) -> Rule | None:
    """Return a rule as iptables -S prints it; None if it matches by more than links and states, or has no verdict."""
    rule = Rule("")
    for option, value in zip(words[::2], words[1::2], strict=False):
        match option:
            case "-i" | "-o":
                # A + at the end stands for any characters.
                name = f"{value[:-1]}*" if value.endswith("+") else value
                rule = rule._replace(iif=name) if option == "-i" else rule._replace(oif=name)
            case "-m" if value in ("conntrack", "state", "comment"):
                pass
            case "--ctstate" | "--state":
                rule = rule._replace(states=sum(_STATES.get(state, 0) for state in value.split(",")) or 1)
            case "-j" | "-g":
                verdict = _VERDICTS.get(value) or ("jump" if option == "-j" else "goto")
                return rule._replace(verdict=verdict, target=value)
            case "--comment":
                pass
            case _:
                return None
    return None


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

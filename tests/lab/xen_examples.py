"""The examples of etc/xen, played: a dom0 with the example's NICs, as ifupdown sets them up by its `interfaces`; then every
command of its README, in order. What stands below a command there is its output. `xl create` makes the vifs of the domain's
file as xl does, and calls the script; before the guest is destroyed, the example's proof tells that its drawing holds.

At the end of each block of commands the host is as it was before.

    outside   per cable, or per bond, a bridge lanN: 192.0.2.1 and 2001:db8::1 on lan0, 10.1.0.1 on lan1; behind it is WORLD
              VLANs 10 and 20 of lan0: 10.10.0.1 and 10.20.0.1
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .capture import Capture
from .nodes import ROOT, Node, dump, settled, wire
from .routed import eventually, ping, reach
from .single import same
from .xenhost import offline, online
from .xenstore import Dom0, Vif

FOLDER = ROOT / "etc/xen"
IN_NETNS = ("one-bridge", "two-bridges", "routed", "nat")
IN_VM = ("vlan", "vlan-aware", "bonding", "vlan-on-bonding", "virtual")
"""Those for which the kernel needs 8021q, bonding, dummy or VLAN filtering."""

HOST, HOST6 = "192.0.2.13", "2001:db8::13"
ROUTER, ROUTER6 = "192.0.2.1", "2001:db8::1"
GUEST, GUEST6 = "192.0.2.20", "2001:db8::20"
WORLD = "198.51.100.1"
MAC = "00:16:3e:00:00:10"
NIC_MAC = "02:00:00:00:0c:00"
SLOW = 30


# --- what an example says --------------------------------------------------------------------------------------------


def xl_values(text: str) -> dict[str, object]:
    """A file of xl's: NAME=VALUE, where a value is a number, a string, or a list of strings."""
    found = {}
    for name, value in re.findall(r"(?m)^([\w.]+)\s*=\s*(\[[^\]]*\]|\S.*)$", text):
        found[name] = ast.literal_eval(value)
    return found


def vif_spec(text: str) -> dict[str, str]:
    """A vif of xl.cfg, see xl-network-configuration(5)."""
    return {key.strip(): value.strip() for key, _, value in (word.partition("=") for word in text.split(",") if word.strip())}


def vif_keys(spec: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, str]:
    """What libxl writes for a vif, with xl.conf's defaults (`vif.default.bridge`) and its own."""
    own = {"bridge": "xenbr0", "script": "vif-bridge"}
    given = {name.removeprefix("vif.default."): str(value) for name, value in defaults.items() if name.startswith("vif.default.")}
    return {**own, **given, **spec}


@dataclass(frozen=True)
class Step:
    """A command of a README, and the output that stands below it."""

    command: str
    output: str


def sessions(readme: str) -> list[list[Step]]:
    """The commands, block by block. A block with none is a drawing."""
    found = []
    for block in re.findall(r"(?m)(?:^    .*\n)+", readme):
        lines = [line[4:].rstrip() for line in block.splitlines()]
        if lines[0].startswith("# "):
            parts = re.split(r"(?m)^# ", "\n".join(lines))[1:]
            steps = [part.partition("\n") for part in parts]
            found.append([Step(command, output.rstrip("\n")) for command, _, output in steps])
    return found


# --- the bench -------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """The host, what is outside, and the guests that run."""

    host: Dom0
    outside: list[Node]
    stack: ExitStack
    running: dict[str, list[Vif]] = field(default_factory=dict)
    domids: int = 0

    def guest(self, number: int = 0, domain: str = "domu") -> Vif:
        return self.running[domain][number]

    def create(self, path: str) -> str:
        """`xl create`."""
        domain = xl_values(self.host.path(path).read_text())
        defaults = xl_values(self.host.path("/etc/xen/xl.conf").read_text())
        self.domids += 1
        name, vifs = str(domain["name"]), []
        for devid, text in enumerate(domain["vif"]):
            keys = vif_keys(vif_spec(text), defaults)
            mac, script = keys.pop("mac"), keys.pop("script")
            vif = Vif(self.host, self.domids, devid, name=name, mac=mac, script=script, **keys)
            vifs.append(self.stack.enter_context(vif))
        for vif in vifs:
            online(vif)
        self.running[name] = vifs
        return f"Parsing config from {path}"

    def destroy(self, name: str) -> str:
        """`xl destroy`."""
        for vif in self.running.pop(name):
            offline(vif)
            vif.close()
        return ""

    def do(self, command: str) -> str:
        """A command of dom0's. Returns what it prints."""
        match shlex.split(command):
            case ["xl", "create", path]:
                return self.create(path)
            case ["xl", "destroy", name]:
                return self.destroy(name)
            case ["vmnet-hook", *words]:
                done = self.host.cli(*words)
            case [path, *words] if path.startswith("/etc/xen/scripts/vmnet-"):
                done = self.host.script(path, *words)
            case words:
                done = self.host.run(words, check=False)
        # `status` says whether the agent runs.
        said = [line for line in done.stderr.splitlines() if not line.startswith("agent: ")]
        assert done.returncode == 0 and not said, (command, done)
        return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def bench(name: str, stack: ExitStack, dom0: Callable[[], Dom0] = Dom0) -> Bench:
    """The example's host, with what its `interfaces` says and its files in place."""
    host = stack.enter_context(dom0())
    host.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done; mkdir -p /run/network")
    interfaces = (FOLDER / name / "interfaces").read_text()
    nics = list(dict.fromkeys(re.findall(r"(?m)^iface (eth\d) inet ", interfaces)))
    one_segment = "bonding" in name
    outside = [outer(stack, number) for number in range(1 if one_segment else len(nics))]
    for number, nic in enumerate(nics):
        node = outside[0 if one_segment else number]
        wire(host, nic, node, f"p{number}", mac_a=f"{NIC_MAC[:-1]}{number}")
        node.run(["ip", "link", "set", f"p{number}", "master", "lan", "up"])
    tags(name, outside[0])
    host.write("/run/interfaces", interfaces)
    # Having been up once is something that the kernel does not forget: so every NIC was, before us.
    host.sh("".join(f"ip link set {nic} up; ip link set {nic} down\n" for nic in nics))
    host.run("ifup -a --no-scripts -i /run/interfaces")
    for file in sorted((FOLDER / name).iterdir()):
        if file.name == "vmnet.toml":
            host.config(file.read_text())
        elif file.suffix == ".cfg" or file.name == "xl.conf":
            host.write(f"/etc/xen/{file.name}", file.read_text())
    made = Bench(host, outside, stack)
    if f"inet {HOST}/24" in host.run("ip addr show dev eth0").stdout:
        assert eventually(lambda: reach([(host, ROUTER), (host, ROUTER6)], wait=1) == [], SLOW)
    return made


def outer(stack: ExitStack, number: int) -> Node:
    """What is on the other end of a cable."""
    node = stack.enter_context(Node(f"outside{number}"))
    addresses = [f"{ROUTER}/24", f"{ROUTER6}/64"] if number == 0 else [f"10.{number}.0.1/24"]
    node.sh(
        "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done\n"
        "ip link add lan type bridge mcast_snooping 0; ip link set lan up\n"
        + "".join(f"ip addr add {address} dev lan\n" for address in addresses)
        + f"ip addr add {WORLD}/32 dev lo"
    )
    return node


def tags(name: str, node: Node) -> None:
    """The VLANs of lan0. On a trunk without an untagged VLAN, the host's network is VLAN 5."""
    if "vlan" not in name:
        return
    for vid in (10, 20):
        node.sh(f"ip link add link lan name lan.{vid} type vlan id {vid}; ip link set lan.{vid} up")
        node.run(f"ip addr add 10.{vid}.0.1/24 dev lan.{vid}")
    if name == "vlan-aware":
        node.sh("ip link add link lan name lan.5 type vlan id 5; ip link set lan.5 up; ip addr flush dev lan scope global")
        node.sh(f"ip addr add {ROUTER}/24 dev lan.5; ip -6 addr add {ROUTER6}/64 dev lan.5")


def play(name: str, dom0: Callable[[], Dom0] = Dom0) -> None:
    """Every command of an example's README, with its proof."""
    blocks = sessions((FOLDER / name / "README").read_text())
    assert blocks, f"{name}/README has no commands"
    with ExitStack() as stack:
        made = bench(name, stack, dom0)
        before, keys = settled(made.host, SLOW), store(made)
        for steps in blocks:
            assert any(step.command.startswith("xl create") for step in steps), steps
            proven = False
            for step in steps:
                if step.command.startswith("xl destroy") and not proven:
                    PROOFS[name](made)
                    check = made.host.cli("check")
                    assert check.returncode == 0, check
                    proven = True
                printed = made.do(step.command)
                printed, expected = (re.sub(r"\([0-9.]+ ms\)", "(N ms)", text) for text in (printed, step.output))
                assert printed == expected, f"{name}/README: {step.command} prints\n{printed}"
            assert proven
            # What the kernel does by itself (addresses of a NIC that has its carrier back) comes a moment later.
            eventually(lambda: dump(made.host) == before, SLOW)
            same(before, dump(made.host))
            assert store(made) == keys
            assert {row["state"] for row in json.loads(made.host.cli("status", "--json").stdout)} <= {"not up", "down"}


def store(made: Bench) -> dict[str, str]:
    return {key: value for key, value in made.host.store.ls().items() if value}


# --- proofs ----------------------------------------------------------------------------------------------------------


def talks(*pairs: tuple[Node, str]) -> None:
    assert eventually(lambda: reach(pairs, wait=1) == [], SLOW), reach(pairs, wait=1)


def silent(node: Node, *targets: str) -> None:
    assert [target for target in targets if ping(node, target, 1) is not None] == []


def spoofs(made: Bench, node: Node, address: str, target: str) -> list[str]:
    """What is seen outside of a guest that sends from somebody else's address."""
    node.run(["ip", "addr", "add", f"{address}/24", "dev", "eth0"])
    with Capture(made.outside[0], "lan", f"host {address}") as seen:
        node.run(["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", address, target], check=False)
    node.run(["ip", "addr", "del", f"{address}/24", "dev", "eth0"])
    return seen.lines


def on_the_hosts_network(made: Bench) -> Node:
    """A guest with addresses of the network that the host is on, itself a station there."""
    outside = made.outside[0]
    guest = made.guest().configure(GUEST, 24, ROUTER, GUEST6)
    with Capture(outside, "lan", "icmp or icmp6") as seen:
        talks(
            *((guest, target) for target in (ROUTER, ROUTER6, WORLD, HOST, HOST6)),
            *((node, target) for node in (outside, made.host) for target in (GUEST, GUEST6)),
            *((made.host, target) for target in (ROUTER, ROUTER6, WORLD)),
        )
    assert seen.having(f"{MAC} > ", f"{GUEST} > {WORLD}: ICMP echo request"), str(seen)
    return guest


def one_bridge(made: Bench) -> None:
    guest = on_the_hosts_network(made)
    assert spoofs(made, guest, "192.0.2.66", ROUTER) == []


def two_bridges(made: Bench) -> None:
    first = made.guest(0).configure(GUEST, 24, ROUTER)
    second = made.guest(1).configure("10.1.0.20", 24)
    with Capture(made.outside[0], "lan", "") as on_first, Capture(made.outside[1], "lan", "") as on_second:
        talks((first, ROUTER), (first, WORLD), (first, HOST), (made.host, ROUTER), (second, "10.1.0.1"))
    assert on_first.having(f"{MAC} > ", "ICMP echo request") and on_second.having("00:16:3e:00:00:11 > ", "10.1.0.20 > 10.1.0.1")
    assert not on_first.having("00:16:3e:00:00:11") and not on_second.having(MAC)
    assert made.host.run("ip -o addr show dev xenbr1 scope global").stdout == ""
    # The second network has a station that believes to be the host's neighbour.
    made.outside[1].run("ip addr add 192.0.2.99/24 dev lan")
    silent(made.outside[1], HOST, GUEST)
    made.outside[1].run("ip addr del 192.0.2.99/24 dev lan")


def tagged(made: Bench) -> None:
    """The first guest's NIC is in VLAN 10, the second one in VLAN 20; the host is in neither."""
    for number, vid in enumerate((10, 20)):
        node = made.guest(number).configure(f"10.{vid}.0.20", 24)
        with Capture(made.outside[0], "p0" if not made.host.path("/proc/net/bonding/bond0").exists() else "lan", "") as seen:
            talks((node, f"10.{vid}.0.1"), (made.outside[0], f"10.{vid}.0.20"), (made.host, ROUTER), (made.host, ROUTER6))
        frames = seen.having("ICMP echo request", rf"10\.{vid}\.0\.20 > ")
        assert frames and all(f"vlan {vid}," in frame for frame in frames), str(seen)
        untagged = seen.having("ICMP echo request", f"{HOST} > ")
        assert untagged and not any("vlan" in frame for frame in untagged), str(seen)
    # Same subnet, other VLAN.
    made.guest(0).guest.run("ip addr add 10.20.0.66/24 dev eth0")
    silent(made.guest(0).guest, "10.20.0.1", "10.20.0.20")
    made.guest(0).guest.run("ip addr del 10.20.0.66/24 dev eth0")


def vlan_aware(made: Bench) -> None:
    web = made.guest(0).configure("10.10.0.20", 24)
    trunk = made.guest(1).configure()
    for vid in (10, 20):
        trunk.sh(f"ip link add link eth0 name eth0.{vid} type vlan id {vid}; ip link set eth0.{vid} up")
        trunk.run(f"ip addr add 10.{vid}.0.21/24 dev eth0.{vid}")
    with Capture(made.outside[0], "p0", "") as seen:
        talks(
            *((made.host, target) for target in (ROUTER, ROUTER6, WORLD)),
            *((node, target) for node, target in ((web, "10.10.0.1"), (trunk, "10.10.0.1"), (trunk, "10.20.0.1"))),
            *((web, target) for target in ("10.10.0.21",)),
            (made.outside[0], "10.20.0.21"),
        )
    assert all("vlan 5," in frame for frame in seen.having("ICMP echo request", f"{HOST} > {ROUTER}")), str(seen)
    assert all("vlan 10," in frame for frame in seen.having("ICMP echo request", "10.10.0.20 > ")), str(seen)
    web.run("ip addr add 10.20.0.66/24 dev eth0")
    silent(web, "10.20.0.1", "10.20.0.21")
    web.sh("ip link add link eth0 name eth0.20 type vlan id 20; ip link set eth0.20 up; ip addr flush dev eth0")
    web.run("ip addr add 10.20.0.66/24 dev eth0.20")
    silent(web, "10.20.0.1", "10.20.0.21")


def one_cable_fails(made: Bench, *pairs: tuple[Node, str]) -> None:
    """The bond goes on with the other cable, whichever fails."""
    for port in ("p0", "p1"):
        made.outside[0].run(["ip", "link", "set", port, "down"])
        talks(*pairs)
        made.outside[0].run(["ip", "link", "set", port, "up"])
        talks(*pairs)


def bonding(made: Bench) -> None:
    guest = on_the_hosts_network(made)
    one_cable_fails(made, (guest, ROUTER), (made.host, ROUTER))


def vlan_on_bonding(made: Bench) -> None:
    tagged(made)
    pairs = [(made.guest(number).guest, f"10.{vid}.0.1") for number, vid in enumerate((10, 20))]
    one_cable_fails(made, *pairs, (made.host, ROUTER))


def routed(made: Bench) -> None:
    outside = made.outside[0]
    guest = made.guest().configure(GUEST, 32, "", GUEST6, HOST6)
    guest.sh(f"ip route add {HOST} dev eth0; ip route add default via {HOST}")
    with Capture(outside, "lan", "") as seen:
        talks(
            *((guest, target) for target in (ROUTER, ROUTER6, WORLD, HOST, HOST6)),
            *((node, target) for node in (outside, made.host) for target in (GUEST, GUEST6)),
        )
    assert seen.having(f"{NIC_MAC} > ", f"{GUEST} > {WORLD}: ICMP echo request"), str(seen)
    assert not seen.having(MAC), "no more than the NIC's own MAC is seen outside"
    silent(outside, "192.0.2.77")
    assert spoofs(made, guest, "192.0.2.66", ROUTER) == []


def nat(made: Bench) -> None:
    guest = made.guest().configure("10.0.0.10", 24, "10.0.0.137")
    with Capture(made.outside[0], "lan", "icmp") as seen:
        talks((guest, ROUTER), (guest, WORLD), (guest, "10.0.0.137"), (made.host, "10.0.0.10"))
    assert seen.having(f"{NIC_MAC} > ", f"{HOST} > {WORLD}: ICMP echo request") and not seen.having(r"\b10\.0\.0\.10\b"), str(
        seen
    )
    assert spoofs(made, guest, "10.0.0.66", ROUTER) == []


def virtual(made: Bench) -> None:
    first = made.guest().configure("10.0.0.20", 24)
    second = made.guest(domain="domu2").configure("10.0.0.21", 24)
    with Capture(made.outside[0], "lan", "net 10.0.0.0/24 or arp net 10.0.0.0/24") as seen:
        talks((first, "10.0.0.21"), (first, "10.0.0.1"), (second, "10.0.0.1"), (made.host, "10.0.0.20"), (made.host, ROUTER))
        first.run("ip route add default via 10.0.0.1")
        silent(first, ROUTER, WORLD)
    assert seen.lines == [], str(seen)


PROOFS: dict[str, Callable[[Bench], None]] = {
    "one-bridge": one_bridge,
    "two-bridges": two_bridges,
    "vlan": tagged,
    "vlan-aware": vlan_aware,
    "bonding": bonding,
    "vlan-on-bonding": vlan_on_bonding,
    "routed": routed,
    "nat": nat,
    "virtual": virtual,
}


def names() -> Iterator[str]:
    """All examples."""
    return (path.name for path in sorted(FOLDER.iterdir()) if path.is_dir())


def folder(name: str) -> Path:
    return FOLDER / name

#!/usr/bin/python3
"""A bridge, a routed and a bridged NIC, from configuration to ping and back to nothing: `sudo make demo`.

Everything happens in namespaces of its own: a router, and a hypervisor with its own libvirtd. The machine's own
interfaces, rules and domains are neither seen nor touched. Exit status: 0 when everything was as claimed, 1 when not,
2 when the machine lacks something.
"""

from __future__ import annotations

import re
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "libvirt"))

import guest_image  # noqa: E402
import lvhost  # noqa: E402
from guest import NAMESPACE, Guest, Nic, domain_xml  # noqa: E402
from lab.capture import Capture  # noqa: E402
from lab.nodes import Node, changes, settled  # noqa: E402

ROUTED = Nic("52:54:00:aa:00:10", dev="tap0", network="public", ips=("192.0.2.10", "2001:db8::10"))
BRIDGED = Nic("52:54:00:aa:00:11", "bridge", dev="tap1", bridge="br0")
CMDLINE = "ip0=192.0.2.10/24 gw0=192.0.2.1 ip6_0=2001:db8::10/128 gw6_0=2001:db8::1 ip1=10.9.0.10/24"

# The hypervisor's own bridge. lvhost declares the two networks.
CONFIG = """\
[bridges.br0]
ports = ["eth2"]

"""

PICTURE = """\
    router                          hypervisor (no address in 192.0.2.0/24)        guest dom1
    192.0.2.1, 2001:db8::1  ------  eth1            routed   tap0  ------  eth0    192.0.2.10, 2001:db8::10
    10.9.0.1                ------  eth2 -- br0 --  bridged  tap1  ------  eth1    10.9.0.10
    beyond it: 203.0.113.1, 2001:db8:ffff::1
"""

COLOUR = sys.stdout.isatty()
failures: list[str] = []


def paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def heading(text: str) -> None:
    print("\n" + paint("1;36", f"== {text} ".ljust(100, "=")), flush=True)


def command(text: str) -> None:
    print(paint("1", f"# {text}"), flush=True)


def block(text: str) -> None:
    for line in text.rstrip("\n").splitlines():
        print("    " + line)
    sys.stdout.flush()


def claim(text: str, true: object, detail: str = "") -> None:
    """Print what should be so and whether it is."""
    print(f"{paint('32', '  ok    ') if true else paint('1;31', '  FAILED')}  {text}", flush=True)
    if not true:
        failures.append(text)
        block(detail)


def product(host: Node, *argv: str, show: bool = True) -> str:
    """Run vmnet-hook in the hypervisor, showing command and output."""
    command("vmnet-hook " + " ".join(argv))
    done = host.cli(*argv)
    if show:
        block(done.stdout + done.stderr)
    return done.stdout if done.returncode == 0 else ""


ET.register_namespace("vmnet", NAMESPACE)


def ping_line(source: str, target: str, note: str, first_try: bool, output: str, sent: str) -> None:
    times = [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", output)]
    shown = f"{times[0]:8.2f} ms" if times else "no answer"
    claim(f"{source:<7} -> {target:<18} {note:<24} first {shown}", first_try and times, f"{sent}\n{output}")


def pings(router: Node, guest: Guest) -> None:
    for target, note in (
        ("192.0.2.1", "gateway"),
        ("2001:db8::1", "gateway"),
        (lvhost.OUTSIDE4, "beyond the gateway"),
        (lvhost.OUTSIDE6, "beyond the gateway"),
        ("10.9.0.1", "peer on the bridge"),
    ):
        words = f"ping -c 2 -i 0.2 -W 1 {target}"
        result = guest.run(words)
        ping_line("guest", target, note, result.status == 0, result.output, words)
    for target, note in (("192.0.2.10", "guest, routed"), ("2001:db8::10", "guest, routed"), ("10.9.0.10", "guest, bridged")):
        words = f"ping -n -c 2 -i 0.2 -W 1 {target}"
        done = router.run(words, check=False)
        ping_line("router", target, note, done.returncode == 0, done.stdout, words)


def short(line: str) -> str:
    """One tcpdump line, without what does not matter here."""
    found = re.match(r"(\S+) > (\S+?),.* (Request|Reply) (.*?), length", line)
    if found:
        source, target, kind, text = found.groups()
        return f"{source} > {target}  ARP {kind.lower():<8}{text}"
    found = re.match(r"(\S+) > (\S+?),.*ICMP6, (neighbor \w+).*?tgt is (\S+?),(?: Flags \[(.*?)\])?", line)
    if found:
        source, target, kind, address, flags = found.groups()
        return f"{source} > {target}  {kind}: {address}" + (f" [{flags}]" if flags else "")
    return line


def seen(capture: Capture, where: str, wanted: dict[str, tuple[str, ...]]) -> None:
    """Claim that packets matching all patterns were captured, and show the first of each."""
    for text, patterns in wanted.items():
        lines = capture.having(*patterns)
        claim(f"{where}: {text}", lines, str(capture))
        if lines:
            block("      " + short(lines[0]))


def show(host: lvhost.Host, router: lvhost.Router) -> None:
    # lvhost made the bridge by hand.
    host.run("ip link del br0")
    host.config(CONFIG + lvhost.CONFIG)
    before = settled(host)
    heading("The lab")
    print(PICTURE)
    heading("Configuration: /etc/vmnet-hooks/vmnet.toml, and the domain's metadata")
    block(CONFIG + lvhost.CONFIG)
    xml = domain_xml("dom1", [ROUTED, BRIDGED], CMDLINE)
    print()
    metadata = ET.fromstring(xml).find("metadata")
    ET.indent(metadata)
    block(ET.tostring(metadata, encoding="unicode"))
    claim("vmnet-hook validate", host.cli("validate").returncode == 0, host.cli("validate").stderr)
    host.define(xml)

    heading("The host's own part: the bridge")
    product(host, "plan", "up", "br0")
    said = product(host, "up", "br0")
    claim("the bridge is up", said == "up bridge br0\n" and "br0" in host.run("ip -br link show dev br0").stdout)
    claim("a second `up` has nothing to do", host.cli("up", "br0").stdout == "up: nothing to do\n")
    brought_up = settled(host)

    heading("What a start of the guest will do")
    plan = product(host, "plan", "dom1")
    claim(
        "the plan names tap, uplink, addresses and table",
        all(word in plan for word in ("tap0", "eth1", "192.0.2.10", "2001:db8::10", "222")),
    )
    claim("planning changed nothing", not changes(brought_up, settled(host)))

    heading("Start, through libvirt's qemu hook")
    announced = Capture(router, "public0", "arp or icmp6")
    with announced:
        started = time.monotonic()
        command("virsh start dom1")
        done = host.virsh("start", "dom1", check=False)
        claim(f"started in {time.monotonic() - started:.1f} s", done.returncode == 0, done.stderr)
        if done.returncode:
            return
        guest = Guest(host, "dom1").ready()
        claim(f"the guest is up after {time.monotonic() - started:.1f} s", True)
        # Duplicate address detection takes the guest's IPv6 address a second or two.
        host.wait_for(lambda: "tentative" not in guest.run("ip -6 addr").output, "duplicate address detection")
    claim("no duplicate address was found by the guest", "dadfailed" not in guest.run("ip -6 addr").output)
    uplink_mac = "02:00:00:00:01:01"
    seen(
        announced,
        "router",
        {
            "gratuitous ARP for the guest, from the uplink": (f"^{uplink_mac}", "who-has 192.0.2.10 .*tell 192.0.2.10"),
            "unsolicited NA for the guest, from the uplink": (f"^{uplink_mac}", "advertisement", "2001:db8::10", "override"),
        },
    )

    heading("Pings, with tcpdump on tap and uplink")
    on_tap, on_uplink = Capture(host, "tap0", "arp or icmp6"), Capture(host, "eth1", "arp or icmp6")
    with on_tap, on_uplink:
        pings(router, guest)
    seen(
        on_tap,
        "tap0",
        {
            "the guest asks for its gateway": ("who-has 192.0.2.1 .*tell 192.0.2.10",),
            "the hypervisor answers in its name": ("Reply 192.0.2.1 is-at fe:ff:ff:ff:ff:ff",),
        },
    )
    seen(
        on_uplink,
        "eth1",
        {
            "the hypervisor asks for the gateway with arp_source": (f"^{uplink_mac}", "who-has 192.0.2.1 .*tell 192.0.2.254"),
        },
    )

    heading("The guest's neighbour entry is permanent; without it, the hypervisor asks in the gateway's name")
    command("ip neigh del 192.0.2.10 dev tap0")
    host.run("ip neigh del 192.0.2.10 dev tap0", check=False)
    with Capture(host, "tap0", "arp") as on_tap:
        router.run("ping -n -c 2 -i 0.2 -W 1 192.0.2.10", check=False)
    seen(on_tap, "tap0", {"who-has guest carries the gateway as sender": ("who-has 192.0.2.10 .*tell 192.0.2.1,",)})
    command("vmnet-hook check")
    found = host.cli("check")
    block(found.stdout + found.stderr)
    claim("check finds the missing entry", found.returncode == 1 and "192.0.2.10" in found.stdout + found.stderr)
    product(host, "repair", "dom1")
    claim("after repair, check is content", host.cli("check").returncode == 0)

    heading("Status, and a drawing of the host")
    status = product(host, "status")
    claim("both NICs are listed", "tap0" in status and "tap1" in status)
    drawing = product(host, "graph")
    claim("uplinks, bridge, taps and guest are drawn", all(word in drawing for word in ("eth1", "eth2", "br0", "tap0", "dom1")))

    heading("Stop")
    differing = [line for line in changes(before, settled(host)).splitlines() if re.match(r"[+-](?![+-])", line)]
    command("virsh destroy dom1")
    host.virsh("destroy", "dom1")
    host.wait_gone("dom1")
    claim("what is left is the bridge", not changes(brought_up, settled(host)), changes(brought_up, settled(host)))
    product(host, "down")
    after = settled(host)
    block(
        "links, addresses, routes, rules, neighbours, nft ruleset, sysctls: "
        f"{len(before.splitlines())} lines compared;\n{len(differing)} differed while the guest ran"
    )
    claim("nothing is left", before == after, changes(before, after))


def main() -> int:
    lacking = lvhost.missing()
    try:
        guest_image.build()
    except guest_image.MissingPiece as error:
        lacking.append(str(error))
    if lacking:
        print("demo: this machine lacks something:\n  " + "\n  ".join(lacking), file=sys.stderr)
        return 2
    begin = time.monotonic()
    with lvhost.Router() as router, lvhost.Host("hypervisor", router) as host:
        show(host, router)
    print()
    if failures:
        print(paint("1;31", f"{len(failures)} claims did not hold:"), *failures, sep="\n  ")
        return 1
    print(paint("1;32", f"Everything was as claimed ({time.monotonic() - begin:.0f} s)."))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The fake kernel of the unit tests, tested against the real one: every call goes to both, and their answers must agree.

Run in a node: `twin_kernel.py SCENARIO` runs one of the laws' scenarios there (see SCENARIOS), and back. After each step all that
the fake kernel holds, and all that a plan has named so far, is read from both. What the kernel does later than the call returns
(it notices carriers, and makes link-local addresses then) is waited for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "unit"):
    sys.path.insert(0, str(folder))

import fake_kernel  # noqa: E402
import scenario  # noqa: E402
import test_laws  # noqa: E402
import test_laws_hostnet  # noqa: E402
from fake_kernel import FakeKernel  # noqa: E402

from lab.tap import open_tap  # noqa: E402
from vmnet_hooks.engine import world  # noqa: E402
from vmnet_hooks.errors import KernelError  # noqa: E402
from vmnet_hooks.kernel import linux  # noqa: E402
from vmnet_hooks.model.facts import DefaultRoute, Host, Link  # noqa: E402
from vmnet_hooks.model.objects import Device, LinkAttribute, NftElement, Sysctl  # noqa: E402
from vmnet_hooks.model.objects.bridge import Adoption  # noqa: E402
from vmnet_hooks.model.plan import Change, Plan  # noqa: E402
from vmnet_hooks.model.resource import WIRE_MAPS, Resource  # noqa: E402
from vmnet_hooks.model.world import Question, Seen, Way  # noqa: E402

SETTLED_SECONDS = 4.0
DEFAULTS = ("ipv4/conf/{}/rp_filter=2", "ipv4/conf/{}/send_redirects=1", "ipv6/conf/{}/accept_dad=0")
"""Of every device. A tentative address can't be told from one that is missing."""


def sh(script: str) -> str:
    return subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout


def without_index(link: Link | None) -> Link | None:
    return link and replace(link, index=0)


def _ours(kernel: Any) -> dict[str, Resource]:
    """What is found without records. It tells a link by its number, and links have other numbers in the other kernel."""
    found = kernel.ours()
    ways = {key: r for key, r in found.items() if isinstance(r, NftElement) and r.set in WIRE_MAPS}
    return found | {key: replace(way, value="") for key, way in ways.items()}


class TwinKernel:
    """Both, as one engine.Kernel. The real one is that of this process's network namespace, which is new."""

    def __init__(self, ipv6: bool = True, ra_links: tuple[str, ...] = (), rp_filter: int = 0) -> None:
        self.fake = FakeKernel(ipv6, ra_links, rp_filter)
        self.real = linux.Kernel()
        self.met: dict[str, Resource] = {}
        self.taps: dict[str, int] = {}
        linux._machine_id = lambda: self.fake.machine  # type: ignore[assignment]
        sh("".join(f"echo {value} > /proc/sys/net/{path.format('default')}\n" for path, value in _pairs()))
        sh(f"echo {rp_filter} > /proc/sys/net/ipv4/conf/all/rp_filter; ip link add probe type bridge")
        # A kernel without VLAN filtering lacks settings of bridges.
        bridge = fake_kernel._DEFAULTS["bridge"]
        known = self.real.read([Device("probe", "bridge", options=tuple(bridge.items()))])["device probe"]
        fake_kernel._DEFAULTS["bridge"] = {word: bridge[word] for word, _ in known.options}
        for values in (fake_kernel._DEVICE_SYSCTLS, fake_kernel._DEVICE_SYSCTLS6):
            for path in values:
                there = self.real.read([Sysctl(path.format("probe"), "")]).values()
                values[path] = next(r.value for r in there if isinstance(r, Sysctl))
        sh("ip link del probe")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fake, name)

    # --- building the world ------------------------------------------------------------------------------------------

    def add_link(self, name: str, kind: str = "", mtu: int = 1500, address: str = "", up: bool = False, master: str = "") -> Link:
        if kind == "tun":
            self.taps[name] = open_tap(name)
        else:
            peer = f" peer name p-{name}" if not kind else ""
            sh(f"ip link add {name} type {kind or 'veth'}{peer}; " + (f"ip link set p-{name} up" if peer else ""))
        words = [f"address {address}" if address else "", "up" if up else "", f"master {master}" if master else ""]
        sh(f"ip link set {name} mtu {mtu} {' '.join(words)}")
        found = self.real.link(name)
        assert found
        given = address or ("" if kind == "bridge" else found.address)
        made = self.fake.add_link(name, found.kind, mtu, given, up, master=master)
        # Where a link's settings start is the machine's business.
        there = [r for r in self.fake.world.values() if r.link == name and (isinstance(r, Sysctl) or r.key.endswith(" tx"))]
        self.fake.put(*self.real.read(there).values())
        if name in self.fake.ra_links:
            sh(f"ip -6 route add default via fe80::1 dev {name} proto ra metric {1024 + made.index}")
        return made

    def remove_link(self, name: str) -> None:
        # A tap goes with the process that holds it.
        os.close(self.taps.pop(name))
        self.fake.remove_link(name)

    def put(self, *resources: Resource) -> None:
        for resource in resources:
            have = self.real.read([resource]).get(resource.key)
            self.real.apply([Change(have, resource)])
        self.fake.put(*resources)

    # --- engine.Kernel -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        pass

    def link(self, ifname: str) -> Link | None:
        fake, real = self.fake.link(ifname), self.real.link(ifname)
        same(f"link {ifname}", without_index(fake), without_index(real))
        return fake

    def ports(self, ifname: str) -> list[str]:
        return same(f"ports of {ifname}", self.fake.ports(ifname), self.real.ports(ifname))

    def below(self, ifname: str) -> set[str]:
        return same(f"links below {ifname}", self.fake.below(ifname), self.real.below(ifname))

    def default_routes(self) -> list[DefaultRoute]:
        return same("default routes", sorted(self.fake.default_routes()), sorted(self.real.default_routes()))

    def is_underway(self, port: str) -> bool:
        return same(f"ifup of {port}", self.fake.is_underway(port), self.real.is_underway(port))

    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> Host:
        links, ports = list(links), list(ports)
        found = [kernel.host(links, ports) for kernel in (self.fake, self.real)]
        fake, real = (replace(host, links={name: without_index(link) for name, link in host.links.items()}) for host in found)
        same("facts of the host", fake, real)
        return found[0]

    def survey(self, port: str, bridge: str) -> Adoption:
        return same(f"survey of {port}", self.fake.survey(port, bridge), self.real.survey(port, bridge))

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        wanted = list(wanted)
        self.met.update((r.key, r) for r in wanted)
        return self.agreed("read", lambda kernel: kernel.read(wanted))

    def ours(self) -> dict[str, Resource]:
        return self.agreed("ours", _ours)

    def lladdrs(self, ifname: str) -> tuple[str, ...] | None:
        return same(f"link-local addresses of {ifname}", self.fake.lladdrs(ifname), self.real.lladdrs(ifname))

    def seen(self) -> dict[str, Seen]:
        """Of the links that both have, without what the fake does not know: carriers, and most settings."""

        def ask(kernel: FakeKernel | linux.Kernel) -> dict[str, Any]:
            there = kernel.seen()
            return {name: replace(there[name], carrier=True, settings={}) for name in self.fake.links}

        self.agreed("seen", ask)
        return self.fake.seen()

    def ways(self, questions: Sequence[Question]) -> list[Way]:
        fake, real = (kernel.ways(questions) for kernel in (self.fake, self.real))
        # The real one may refuse a sender that is a guess.
        sure = [at for at, question in enumerate(questions) if question.source != world.ANYWHERE]
        same(f"ways {questions}", *([(found[at].type, found[at].dev, found[at].table) for at in sure] for found in (fake, real)))
        return fake

    def policy(self, version: int, table: int) -> list[int]:
        return same(f"policy {table}", self.fake.policy(version, table), self.real.policy(version, table))

    def finish(self) -> None:
        self.fake.finish()
        self.real.finish()

    def apply(self, step: Plan) -> None:
        self.met.update((r.key, r) for change in step for r in (change.have, change.want) if r)
        errors = []
        for kernel in (self.fake, self.real):
            try:
                kernel.apply(step)
                errors.append(None)
            except KernelError as error:
                errors.append(error)
        same(f"refused, {errors}: {step[0]}", *(type(error) for error in errors))
        made = step[0].want
        if isinstance(made, Device) and step[0].have is None and (link := self.real.link(made.ifname)):
            # Its first address is random.
            self.fake.links[made.ifname] = replace(self.fake.links[made.ifname], address=link.address)
            self.fake.put(LinkAttribute(made.ifname, "address", link.address))
        self.compare(f"after: {step[0]}")
        if errors[0]:
            raise errors[0]

    # --- comparison --------------------------------------------------------------------------------------------------

    def compare(self, what: str) -> None:
        wanted = [*{**self.met, **self.fake.world}.values()]
        self.agreed(what, lambda kernel: kernel.read(wanted))
        self.agreed(f"ours, {what}", _ours)

    def agreed(self, what: str, ask: Callable[[Any], dict[str, Resource]]) -> dict[str, Resource]:
        end = time.monotonic() + SETTLED_SECONDS
        while (fake := ask(self.fake)) != (real := ask(self.real)) and time.monotonic() < end:
            time.sleep(0.05)
        differing = {key for key in {*fake, *real} if fake.get(key) != real.get(key)}
        lines = [f"\n  {key}\n    fake {fake.get(key)!r}\n    real {real.get(key)!r}" for key in sorted(differing)]
        assert not lines, f"{what}{''.join(lines)}"
        return fake


def _pairs() -> list[tuple[str, str]]:
    return [(path, value) for path, _, value in (item.partition("=") for item in DEFAULTS)]


def same(what: str, fake: Any, real: Any) -> Any:
    assert fake == real, f"{what}\n    fake {fake!r}\n    real {real!r}"
    return fake


# --- scenarios -------------------------------------------------------------------------------------------------------


def plugged(case: test_laws.Case, path: Path) -> None:
    """Plug, and unplug in two ways: by the hook, and by `repair` after the tap went."""
    host = case.host(path)
    host.plug(case.domain)
    host.check()
    host.plug(case.domain)
    host.unplug(case.domain)
    host.plug(case.domain)
    host.remove_taps(case.domain)
    host.repair()
    for domain in case.first:
        host.unplug(domain)
    host.kernel.compare("at the end")
    assert host.check() == []


def unplugged(case: test_laws.Case, path: Path) -> None:
    host = case.host(path)
    host.unplug(case.domain)
    host.kernel.compare("at the end")
    host.check()


def acted(act: test_laws_hostnet.Act, path: Path) -> None:
    """A change of what the host is made of, and back."""
    host = act.host(path)
    act.call(host)
    host.check()
    for domain in (*act.domains, test_laws_hostnet.FORTY, test_laws_hostnet.FIVE):
        host.unplug(domain)
    host.down()
    host.kernel.compare("at the end")
    assert test_laws_hostnet.amiss(host) == []


ACTS = {**test_laws_hostnet.ADDING, **test_laws_hostnet.GOING}
_GROUPS: tuple[tuple[str, Callable[[Any, Path], None], Mapping[str, Any]], ...] = (
    ("plug", plugged, test_laws.PLUGS),
    ("unplug", unplugged, test_laws.UNPLUGS),
    ("act", acted, ACTS),
)
# A network namespace has IPv6 if the kernel has.
SCENARIOS = {
    f"{word}: {name}": (run, case) for word, run, cases in _GROUPS for name, case in cases.items() if case.facts.get("ipv6", True)
}
_LACKED = ("[vlans.", "[bonds.", "[dummies.", "vlan_filtering", "vlan = ")


def everywhere(name: str) -> bool:
    """Whether a scenario needs no kernel modules but those of the netns tier: no VLANs, no bonds, no dummies."""
    _, case = SCENARIOS[name]
    return not any(word in case.toml + (case.then or "") for word in _LACKED)


def main(name: str) -> None:
    scenario.FakeKernel = TwinKernel  # type: ignore[misc]
    folder = Path("/run/twin")
    folder.mkdir()
    run, case = SCENARIOS[name]
    run(case, folder)


if __name__ == "__main__":
    main(sys.argv[1])

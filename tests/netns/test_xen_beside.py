"""Beside Xen's own scripts, on the same vif and the same store: what they set, ours set too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from lab.routed import eventually, ping, reach
from lab.xenhost import LAN_PEER, OWN, UPSTREAM, XenHost
from lab.xenstore import Vif


@pytest.fixture
def one():
    with XenHost() as host:
        yield host


def after(vif: Vif, script: str, look: Callable[[], object], *commands: str) -> list[object]:
    """What `look` sees after each command; then the vif is new again."""
    seen = []
    for command in commands:
        done = vif.call(command, script=script)
        assert done.returncode == 0, (done, vif.error)
        seen.append(look())
    vif.leave()
    vif.call("offline", script=script)
    vif.forget()
    vif.register()
    vif.device()
    return seen


def device(one: XenHost, *names: str) -> dict[str, object]:
    """What is to be seen of the first of `names` that there is."""
    links = {link["ifname"]: link for link in json.loads(one.host.run("ip -d -j link show").stdout)}
    name = next(name for name in names if name in links)
    link = links[name]
    told = {key: link.get(key) for key in ("ifname", "master", "mtu", "address")}
    return told | {"up": "UP" in link["flags"], "proxy_arp": one.host.sysctl(f"ipv4/conf/{name}/proxy_arp")}


KEYS = {
    "plain": {},
    "mtu": {"mtu": "1400"},
    "vifname": {"vifname": "foo0"},
    "ip": {"ip": "10.7.0.10"},
    "no bridge": {"bridge": ""},
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_vif_bridge(one, keys):
    keys = {key: value for key, value in {"bridge": "br0", **keys}.items() if value}
    vif = one.vif(**keys)

    def look():
        vif.configure("10.7.0.10")
        assert eventually(lambda: ping(vif.guest, LAN_PEER, 1) is not None)
        # Xen's writes the MTU of a renamed vif below a domain that is not there.
        mtu = "" if "vifname" in keys else one.store.read(f"{vif.frontend}/mtu")
        return device(one, "foo0", "vif1.0"), vif.status, vif.error, mtu

    xens = after(vif, "vif-bridge", look, "online")
    ours = after(vif, "vmnet-vif-bridge", look, "online")
    assert xens == ours


def test_vif_route(one):
    """The same routes (but for their protocol number, by which ours are known), address and reach."""
    vif = one.vif(ip="10.0.1.10 10.0.1.11", gatewaydev="eth9")
    # Xen's script leaves this to its network-route.
    one.host.sysctl("ipv4/ip_forward", 1)
    one.host.sysctl("ipv4/conf/eth9/proxy_arp", 1)

    def look():
        vif.configure("10.0.1.10", 24, OWN)
        assert eventually(lambda: reach([(vif.guest, UPSTREAM), (one.peer, "10.0.1.10")], wait=1) == [])
        shown = one.host.run("ip -4 route show dev vif1.0").stdout
        routes = sorted(" ".join(re.sub(r"\bproto \S+", "", line).split()) for line in shown.splitlines())
        addresses = re.findall(r"inet (\S+)", one.host.run("ip -4 addr show dev vif1.0").stdout)
        return device(one, "vif1.0"), routes, addresses, vif.status, vif.error

    xens = after(vif, "vif-route", look, "online")
    ours = after(vif, "vmnet-vif-route", look, "online")
    assert xens == ours


def test_vif_nat(one):
    """Xen's leaves masquerading to its network-nat, and gives the router the prefix length 16."""
    vif = one.vif(7, gatewaydev="eth9")

    def look():
        vif.configure("10.0.7.1", 16, "10.0.7.128")
        assert eventually(lambda: ping(vif.guest, "10.0.7.128", 1) is not None)
        shown = one.host.run("ip -4 route get 10.0.7.1").stdout.split()
        addresses = re.findall(r"inet ([^/\s]+)", one.host.run("ip -4 addr show dev vif7.0").stdout)
        return shown[:5], addresses, device(one, "vif7.0")["up"], vif.status, vif.error

    xens = after(vif, "vif-nat", look, "online")
    ours = after(vif, "vmnet-vif-nat", look, "online")
    assert xens == ours

"""What Xen's scripts refuse: one line for the admin, the same line in the store, and nothing has changed."""

from __future__ import annotations

import pytest
from lab.nodes import settled
from lab.single import same
from lab.xenhost import XenHost, refused
from lab.xenstore import Vif

PUBLIC = """
[networks.public]
mode = "routed"
uplink = "up0"
table = 222
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }
"""
HOSTILE = {
    "bridge": "br0\ntouch /run/pwned",
    "vifname": "\x1b[31mbr0",
    "ip": "$(touch /run/pwned)",
    "mac": "a" * 2000,
    "vlan": "br0; touch /run/pwned",
    "mtu": "`touch /run/pwned`",
}
"""One of each sort for one of each key: what else a value must not be is in tests/unit/test_xen_frontend.py."""
# case: (script, keys of the store, words of the message, exit status or None)
CASES = {
    **{f"hostile {key}": ("vif-bridge", {"bridge": "br0", key: value}, (), 2) for key, value in HOSTILE.items()},
    "a bridge that is not there": ("vif-bridge", {"bridge": "br7"}, ("br7",), None),
    "a bridge that is none": ("vif-bridge", {"bridge": "eth9"}, ("eth9", "bridge"), None),
    "xenbr without eth": ("vif-bridge", {"bridge": "xenbr7"}, ("xenbr7",), None),
    "no address": ("vif-route", {}, ("ip",), 2),
    "the host's own address": ("vif-route", {"ip": "10.0.1.1"}, ("10.0.1.1",), None),
    "no such netdev": ("vif-route", {"ip": "10.0.1.10", "gatewaydev": "eth7"}, ("eth7",), None),
    "a hostile netdev": ("vif-route", {"ip": "10.0.1.10", "gatewaydev": "$(touch /run/pwned)"}, (), 2),
    "gateway's address": ("vif-route", {"ip": "192.0.2.1"}, ("192.0.2.1",), None),
    "two addresses for NAT": ("vif-nat", {"ip": "10.9.0"}, ("10.9.0",), 2),
    "name in use": ("vif-bridge", {"bridge": "br0", "vifname": "eth9"}, ("eth9",), None),
}


@pytest.fixture(scope="module")
def one():
    with XenHost(PUBLIC) as host:
        yield host


@pytest.fixture(scope="module")
def before(one):
    """One vif with its guest is enough: what fails leaves it as it was."""
    one.waiting = one.vif()
    return settled(one.host)


@pytest.fixture(autouse=True)
def unchanged(one, before):
    yield
    now = settled(one.host)
    if now != before:
        # The other tests' host is as new.
        one.waiting.call("offline")
    same(before, now)
    assert not one.host.path("/run/pwned").exists()


def described(one: XenHost, keys: dict[str, str], script: str) -> Vif:
    """The module's vif, with another description in the store."""
    vif = one.waiting
    one.store.rm(vif.backend)
    vif.keys, vif.script = dict(keys), f"vmnet-{script}"
    vif.register()
    return vif


@pytest.mark.parametrize("script, keys, words, status", CASES.values(), ids=CASES.keys())
def test_online(script, keys, words, status, one):
    vif = described(one, keys, script)
    refused(vif, vif.call("online"), *words, status=status)
    assert "\n" not in vif.error and "\x1b" not in vif.error


ARGUMENTS = {
    "no command": ["type_if=vif"],
    "hostile command": ["$(touch /run/pwned)", "type_if=vif"],
    "hostile type": ["online", "type_if=$(touch /run/pwned)"],
}


@pytest.mark.parametrize("words", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments(words, one):
    vif = described(one, {"bridge": "br0"}, "vif-bridge")
    done = one.host.script(vif.script, *words, env=vif.env())
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done


@pytest.mark.parametrize(
    "script, word",
    {
        "vif-bridge": "x=$(touch /run/pwned)",
        "vif-route": "x=`touch /run/pwned`",
        "vif-nat": "x=1;touch /run/pwned",
        "vif-setup": "x[$(touch /run/pwned)]=1",
    }.items(),
)
def test_arguments_are_never_evaluated(script, word, one):
    """As Xen's own scripts evaluate them. Whether the call succeeds is not the point: `bridge` is none of the host's."""
    vif = described(one, {"bridge": "br7", "ip": "10.0.1.300"}, script)
    done = one.host.script(vif.script, "online", "type_if=vif", word, env={**vif.env(), "script": ""})
    assert done.returncode in (1, 2), done


ENVIRONMENTS = {
    "no XENBUS_PATH": {"XENBUS_PATH": None},
    "hostile XENBUS_PATH": {"XENBUS_PATH": "backend/vif/$(touch /run/pwned)/0"},
    "no tree": {"XENBUS_PATH": "backend/vif/77/0"},
    "hostile vif": {"vif": "$(touch /run/pwned)"},
    "vif is a path": {"vif": "../eth9"},
}


@pytest.mark.parametrize("command", ["online", "offline"])
@pytest.mark.parametrize("changed", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_environment(changed, command, one):
    """`offline` has its records: it need not complain, and has nothing to do here."""
    vif = described(one, {"bridge": "br0"}, "vif-bridge")
    keys = one.keys()
    env = {key: value for key, value in (vif.env() | changed).items() if value is not None}
    done = one.host.script(vif.script, command, "type_if=vif", env=env)
    lines = done.stderr.splitlines()
    if command == "online" or lines:
        assert done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done
    told = {key: value for key, value in one.keys().items() if "/hotplug-" not in key}
    assert told == {key: value for key, value in keys.items() if "/hotplug-" not in key}, "nothing else is written"


def test_the_device_is_not_there(one):
    vif = described(one, {"bridge": "br0"}, "vif-bridge")
    done = vif.call("online", env={"vif": "vif1.9"})
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize("text", ["this is [not TOML", "[networks.a]\nmode = 'vxlan'\n"])
def test_a_broken_configuration(text, one):
    """It fails closed, and says which file."""
    one.host.config(text)
    try:
        vif = described(one, {"bridge": "br0"}, "vif-bridge")
        refused(vif, vif.call("online"), "/etc/vmnet-hooks/vmnet.toml", status=2)
    finally:
        one.host.config(PUBLIC)

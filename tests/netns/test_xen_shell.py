"""What shells make of our scripts: hooks in vif-post.d, which work with Xen's functions and variables, and scripts of the
admin's that source a script of Xen's, or hand it to sh. Xen's own scripts do the same beside it.
"""

from __future__ import annotations

import pytest
from lab.agent import Agent
from lab.nodes import dump
from lab.single import same
from lab.xenhost import OWN, XenHost, nothing_stays, succeeded
from lab.xenstore import SCRIPTS as OURS
from lab.xenstore import Vif

ROUTED = {"ip": "10.0.1.10", "gatewaydev": "eth9"}
NAT = {"gatewaydev": "eth9"}
FUNCTIONS = "iptables_w dom0_ip ip_of frob_iptable set_mtu add_to_bridge setup_virtual_bridge_port first_file"
SCRIPTS = "/etc/xen/scripts"


@pytest.fixture(scope="module")
def lab():
    with XenHost(foreign=False) as host:
        # A bridge that keeps its carrier and its MAC without guests.
        host.host.sh(f"""
            ip link add eth5 address 02:00:00:00:05:01 type bridge; ip link set eth5 up; mkdir -p {SCRIPTS}/vif-post.d
            ip link add port5 type veth peer far5; ip link set port5 master eth5 up; ip link set far5 up
        """)
        host.state()
        yield host


@pytest.fixture
def one(lab):
    yield lab
    lab.host.sh(f"rm -f {SCRIPTS}/vif-post.d/* {SCRIPTS}/mine /run/told")


def program(one: XenHost, path: str, text: str) -> None:
    one.host.write(f"{SCRIPTS}/{path}", text)
    one.host.run(["chmod", "755", f"{SCRIPTS}/{path}"])


def lives(one: XenHost, script: str, **keys: object) -> tuple[list[int], str | None]:
    """A vif's whole life. Returns the statuses of `online` and `offline`, and what libxl found."""
    vif = one.vif(7, script=script, name="web", **keys)
    statuses = [vif.call("online").returncode]
    status = vif.status
    vif.leave()
    statuses.append(vif.call("offline").returncode)
    vif.forget()
    vif.close()
    return statuses, status


# --- vif-post.d ---------------------------------------------------------------------------------------------------------

HOOKS = {
    "functions": ("vif-bridge", {"bridge": "br0"}, f"declare -F {FUNCTIONS} log fatal xenstore_read do_or_die >/dev/null"),
    "functions of routes": ("vif-route", ROUTED, f"declare -F {FUNCTIONS} >/dev/null"),
    "iptables_w": ("vif-bridge", {"bridge": "br0"}, "iptables_w -L -n >/dev/null"),
    "dom0_ip": ("vif-route", ROUTED, f'[ "$(dom0_ip)" = {OWN} ]'),
    "ip_of": ("vif-bridge", {"bridge": "br0"}, f'[ "$(ip_of eth9)" = {OWN} ]'),
    "first_file": ("vif-bridge", {"bridge": "br0"}, '[ "$(first_file -f /nowhere /etc/passwd)" = /etc/passwd ]'),
    "main_ip": ("vif-route", ROUTED, f'[ "$main_ip" = {OWN} ]'),
    "words of a route": ("vif-route", ROUTED, 'case $command in online) [ "$ipcmd" = add ] ;; *) [ "$ipcmd" = del ] ;; esac'),
    "ip": ("vif-bridge", {"bridge": "br0", "ip": "10.7.0.9 fd00:7::9"}, '[ "$ip" = "10.7.0.9 fd00:7::9" ]'),
    "ip of vif-nat": ("vif-nat", NAT, '[ "$ip" = 10.0.7.1/16 ]'),
    "vif_ip, router_ip": ("vif-nat", NAT, '[ "$vif_ip $router_ip" = "10.0.7.1 10.0.7.128" ]'),
    "given to vif-nat": ("vif-nat", {**NAT, "ip": "10.3.0.2"}, '[ "$vif_ip $router_ip $ip" = "10.3.0.2 10.3.0.129 10.3.0.2" ]'),
    "numbers": ("vif-nat", NAT, '[ "$domid $vifid $hostname" = "7 1 dom7" ]'),
    "bridge": ("vif-bridge", {"bridge": "br0"}, '[ "$bridge" = br0 ]'),
    "bridge by its old name": ("vif-bridge", {"bridge": "xenbr5"}, '[ "$bridge" = eth5 ]'),
    "vifname": ("vif-bridge", {"bridge": "br0", "vifname": "foo0"}, '[ "$vifname $dev $vif" = "foo0 foo0 vif7.0" ]'),
    "a port": ("vif-bridge", {"bridge": "br0"}, '[ "$command" = offline ] || [ -e "/sys/class/net/$bridge/brif/$dev" ]'),
    "what it adds": ("vif-bridge", {"bridge": "br0"}, 'xenstore_write "$XENBUS_PATH/mine" 1'),
}


@pytest.mark.parametrize("script, keys, text", HOOKS.values(), ids=HOOKS.keys())
def test_a_hook(one, script, keys, text):
    """It works at the start and the end of a guest, with Xen's script and with ours."""
    program(one, "vif-post.d/10-a.hook", f'{text}\necho "$command $type_if" >>/run/told\n')
    assert lives(one, script, **keys) == ([0, 0], "connected"), one.host.sh("cat /var/log/xen/xen-hotplug.log")
    with nothing_stays(one):
        assert lives(one, f"vmnet-{script}", **keys) == ([0, 0], "connected")
    assert one.host.path("/run/told").read_text().split() == ["online", "vif", "offline", "vif"] * 2


def test_the_gateway_of_vif_nat(one):
    """Where Xen's own fails, and where it has none: the address is the guest's own, and its gateway is one."""
    program(one, "vif-post.d/10-a.hook", 'echo "$vif_ip $router_ip $(ip_of "$dev" 2>/dev/null)" >>/run/told\n')
    assert lives(one, "vmnet-vif-nat", **NAT, ip="fd00:3::2 10.4.0.0/24 10.3.0.200") == ([0, 0], "connected")
    told = one.host.path("/run/told").read_text().splitlines()
    assert [line.rstrip() for line in told] == ["10.3.0.200 10.3.0.73 10.3.0.73", "10.3.0.200 10.3.0.73"]


def test_hooks_of_an_emulated_nic(one):
    text = 'echo "$command $type_if $dev $XENBUS_PATH $domid $metric" >>/run/told\n'
    program(one, "vif-post.d/10-a.hook", text)
    vif = one.vif(7, script="vmnet-vif-route", hvm=True, **ROUTED)
    one.host.sh(f"ip tuntap add {vif.tap} mode tap")
    for command in ("online", "add", "remove"):
        succeeded(vif.call(command))
    vif.leave()
    succeeded(vif.call("offline"))
    vif.forget()
    one.host.sh(f"ip link del {vif.tap}")
    path = "/local/domain/0/backend/vif/7/0"
    assert one.host.path("/run/told").read_text().splitlines() == [
        "online vif vif7.0 backend/vif/7/0 7 2",
        f"add tap vif7.0-emu {path} 7 1",
        f"remove tap vif7.0-emu {path} 7 1",
        "offline vif vif7.0 backend/vif/7/0 7 2",
    ]


# --- scripts that source ours --------------------------------------------------------------------------------------------

SOURCES = """#!/bin/bash
{before}
. "$(dirname "$0")/{script}"
echo "$command $type_if $dev $XENBUS_PATH ${{bridge-}}${{main_ip-}}${{vif_ip-}} ${{mine:-none}}" >>/run/told
log debug "mine"
"""


@pytest.mark.parametrize("agent", [False, True], ids=["alone", "agent"])
@pytest.mark.parametrize(
    "script, keys", [("vif-bridge", {"bridge": "br0"}), ("vif-route", ROUTED), ("vif-nat", NAT)], ids=OURS[:3]
)
def test_sourced(one, script, keys, agent):
    """The guest gets its network, and the rest of the script runs, with the same variables as after Xen's own."""
    told = []
    with nothing_stays(one):
        for kind in ("", "vmnet-"):
            program(one, "mine", SOURCES.format(script=kind + script, before="mine=yes"))
            if agent and kind:
                with Agent(one.host) as served:
                    assert lives(one, "mine", **keys) == ([0, 0], "connected")
                    assert "call: xen" in served.log
            else:
                assert lives(one, "mine", **keys) == ([0, 0], "connected")
            told.append(one.host.path("/run/told").read_text())
            one.host.run("rm /run/told")
    assert told[0] == told[1] and len(told[0].splitlines()) == 2


def test_what_it_sets_before(one):
    """As with Xen's own: a default for what the vif's keys do not have."""
    for kind in ("", "vmnet-"):
        program(one, "mine", SOURCES.format(script=f"{kind}vif-bridge", before="bridge=br0; set -u; mine=yes"))
        assert lives(one, "mine") == ([0, 0], "connected")
    assert one.host.path("/run/told").read_text().count(" br0 yes\n") == 4


def test_sourced_and_refused(one):
    """The script ends with our status, and the reason is told."""
    program(one, "mine", SOURCES.format(script="vmnet-vif-bridge", before="mine=yes"))
    before = dump(one.host)
    vif = one.vif(7, script="mine", bridge="nowhere")
    done = vif.call("online")
    assert done.returncode == 2 and "nowhere does not exist" in done.stderr and "nowhere does not exist" in vif.error
    vif.leave()
    vif.forget()
    assert not one.host.path("/run/told").exists()
    vif.close()
    same(before, dump(one.host))


@pytest.mark.parametrize(
    "command", ['sh "$(dirname "$0")/vmnet-vif-bridge" "$@"', "cd /etc/xen/scripts; exec dash vmnet-vif-bridge $*"]
)
def test_handed_to_sh(one, command):
    program(one, "mine", f"#!/bin/sh\n{command}\n")
    with nothing_stays(one):
        assert lives(one, "mine", bridge="br0") == ([0, 0], "connected")


def test_sourced_by_another_shell(one):
    """Neither can Xen's own be. What the message says helps."""
    text = '. "$(dirname "$0")/vmnet-vif-bridge"\n'
    program(one, "mine", f"#!/bin/dash\n{text}")
    vif: Vif = one.vif(7, script="mine", bridge="br0")
    done = vif.call("online")
    assert done.returncode == 1 and "begin it with #!/bin/bash" in done.stderr, done
    program(one, "mine", f"#!/bin/bash\n{text}")
    succeeded(vif.call("online"))
    assert vif.status == "connected"
    vif.leave()
    succeeded(vif.call("offline"))
    vif.forget()


# --- a driver domain -----------------------------------------------------------------------------------------------------

UNREADABLE = """
import errno, importlib.machinery, importlib.util, os
file = os.path.join(os.path.dirname(__file__), "real.so")
spec = importlib.util.spec_from_file_location("xs", file, loader=importlib.machinery.ExtensionFileLoader("xs", file))
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
Error = real.Error
class xs:
    def __init__(self):
        self._xs = real.xs()
        self.ls, self.write = self._xs.ls, self._xs.write
    def read(self, transaction, path):
        if path.startswith(("/local/domain/7/", "/local/domain/8/")) and path.count("/") == 4:
            raise Error(errno.EACCES, os.strerror(errno.EACCES))
        return self._xs.read(transaction, path)
"""


@pytest.mark.parametrize(
    "script, keys", [("vif-bridge", {"bridge": "br0"}), ("vif-route", ROUTED), ("vif-nat", NAT)], ids=OURS[:3]
)
def test_a_driver_domain(script, keys):
    """It may read its own backend, and nothing of the guest: libxl makes /local/domain/N readable for N alone."""
    with XenHost(foreign=False) as one:
        there = one.host.sh("ls -d /usr/lib/xen-*/lib/python*").strip()
        one.host.sh(f"mkdir -p /run/py; cp -a {there}/. /run/py/; mv /run/py/xen/lowlevel/xs.*.so /run/py/xen/lowlevel/real.so")
        one.host.write("/run/py/xen/lowlevel/xs.py", UNREADABLE)
        one.host.sh(f"mount --bind /run/py {there}")
        vif = one.vif(7, script=f"vmnet-{script}", **keys)
        succeeded(vif.call("online"))
        assert vif.status == "connected" and "xen-7" in one.host.cli("status").stdout
        vif.leave()
        succeeded(vif.call("offline"))
        vif.forget()
        if script != "vif-bridge":
            return
        # Both halves of a guest that migrates within its host have their vifs here. A guest with a name is another one.
        pair = [one.vif(domid, script="vmnet-vif-bridge", mac="00:16:3e:00:00:77", ip="10.7.0.10", **keys) for domid in (7, 8)]
        for half in pair:
            succeeded(half.call("online"))
        other = one.vif(9, script="vmnet-vif-bridge", mac=pair[0].mac, **keys)
        done = other.call("online")
        assert done.returncode == 1 and "is held by xen-" in done.stderr, done
        for half in pair:
            half.leave()
            succeeded(half.call("offline"))

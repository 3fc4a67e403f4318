"""The Debian package: build, lintian, install into a clean root, upgrade, remove, purge; virsh with the hook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from building import IGNORED, ROOT, build, run
from clean_root import CleanRoot

HOOK = "/etc/libvirt/hooks/qemu.d/vmnet-hooks"
HOOKS = "/usr/lib/vmnet-hooks/hooks"
UNIT, AGENT, SOCKET = "vmnet-networks.service", "vmnet-hookd.service", "vmnet-hookd.socket"
SERVER = "vmnet-dnsmasq@.service"
CLIENT = "/usr/sbin/vmnet-hook-client"
DDNS = "vmnet-ddns.socket"
XEN = ("vif-bridge", "vif-route", "vif-nat", "vif-setup", "network-bridge", "network-route", "network-nat")
IFUPDOWN = ("/etc/network/if-up.d/vmnet-hooks", "/etc/network/if-down.d/vmnet-hooks")

pytestmark = pytest.mark.package


def xml(network: str) -> str:
    return f"""<domain type='kvm'><name>dom1</name><uuid>5a9f0e0c-3a0c-4a53-8c7b-0d3c6a1f2b11</uuid><metadata>
<vmnet:domain xmlns:vmnet='urn:vmnet-hooks:domain:1'><vmnet:interface mac='52:54:00:aa:00:10' network='{network}'>
<vmnet:ip address='192.0.2.10'/></vmnet:interface></vmnet:domain></metadata><devices>
<interface type='ethernet'><mac address='52:54:00:aa:00:10'/><target dev='tap0'/></interface></devices></domain>"""


def test_source_and_binary_build(deb: Path) -> None:
    assert {path.suffix for path in deb.parent.iterdir() if path.is_file()} >= {
        ".deb",
        ".dsc",
        ".xz",
        ".changes",
        ".buildinfo",
    }
    assert re.search(r'^__version__ = "(.*)"', (ROOT / "vmnet_hooks/__init__.py").read_text(), re.M)[1] in deb.name
    assert re.search(r"^version = (.*)", (ROOT / "setup.cfg").read_text(), re.M)[1] in deb.name


def test_build_leaves_the_tree_clean(deb: Path) -> None:
    tree = deb.parent / "tree"
    run(["debian/rules", "clean"], tree)
    assert tracked(tree) == tracked(ROOT)


def tracked(tree: Path) -> set[str]:
    found = set()
    for directory, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in IGNORED(directory, folders)]
        found |= {str(Path(directory, name).relative_to(tree)) for name in files if name not in IGNORED(directory, files)}
    return found


def test_lintian(deb: Path) -> None:
    (changes,) = deb.parent.glob("*.changes")
    print(run(["lintian", "--allow-root", "--tag-display-limit=0", "--fail-on=error,warning", str(changes)], deb.parent))


def test_the_client_is_hardened(root: CleanRoot, deb: Path) -> None:
    """By Debian's flags; dpkg unpacks it before the program whose first line names it."""
    root.install(deb)
    shown = subprocess.run(["readelf", "-hldWs", root.path(CLIENT)], capture_output=True, text=True, check=True).stdout
    assert "DYN (Position-Independent Executable" in shown and "GNU_RELRO" in shown and "NOW" in shown
    assert "__stack_chk_fail" in shown and re.search(r"__\w+_chk@", shown)
    files = [line.split()[-1] for line in run(["dpkg-deb", "-c", str(deb)], deb.parent).splitlines()]
    assert files.index(f".{CLIENT}") < files.index("./usr/sbin/vmnet-hook-run")


def test_it_is_built_reproducibly(deb: Path, tmp_path: Path) -> None:
    """In another folder."""
    other = build(tmp_path / "another-folder", DEB_BUILD_OPTIONS="nocheck")
    assert other.name == deb.name and other.read_bytes() == deb.read_bytes()


def test_installed(root: CleanRoot, deb: Path) -> None:
    root.install(deb)
    xen = [f"/etc/xen/scripts/vmnet-{name}" for name in XEN]
    for hook in (HOOK, *IFUPDOWN, *xen, f"{HOOKS}/libvirt/qemu", f"{HOOKS}/qemu/ifup", f"{HOOKS}/qemu/ifdown"):
        assert root.path(hook).is_symlink(), hook
        root.run(["test", "-x", hook])
    # libvirtd's AppArmor profile lets it run what is in /usr/sbin; it looks at the end of the links.
    assert root.run(["realpath", HOOK, *IFUPDOWN, *xen]).stdout == 10 * "/usr/sbin/vmnet-hook-run\n"
    assert root.path("/usr/sbin/vmnet-hook-run").read_text().startswith(f"#!{CLIENT}\n")
    assert [os.readlink(root.path(link)) for link in xen] == [f"{HOOKS}/xen/{name}" for name in XEN]
    assert root.run("cat /etc/iproute2/rt_protos.d/vmnet.conf").stdout.split()[-2:] == ["86", "vmnet"]
    assert "validate" in root.run(["vmnet-hook", "--help"]).stdout
    root.run(["vmnet-hook", "validate"])
    # Nothing is declared: a guest of somebody else's is left alone, a guest of ours is told what is missing.
    for operation in ("prepare", "start", "started", "stopped", "release", "reconnect"):
        root.run([HOOK, "dom1", operation, "begin", "-"], input="<domain type='kvm'><name>dom1</name></domain>")
    refused = root.run([HOOK, "dom1", "start", "begin", "-"], input=xml("nowhere"), check=False)
    assert refused.returncode == 2 and "nowhere" in refused.stdout and refused.stdout.count("\n") == 1, refused


def test_service(root: CleanRoot, deb: Path) -> None:
    said = root.install(deb)
    assert root.run(["systemctl", "is-enabled", UNIT]).stdout == "enabled\n", said
    root.run(["systemd-analyze", "verify", "--man=yes", UNIT])
    unit = root.run(["systemctl", "cat", UNIT], check=False).stdout or root.path(f"/lib/systemd/system/{UNIT}").read_text()
    assert "ExecStop" not in re.sub(r"(?m)^#.*$", "", unit)
    # dpkg neither starts it nor stops it while it upgrades.
    scripts = [root.path(f"/var/lib/dpkg/info/vmnet-hooks.{name}").read_text() for name in ("postinst", "prerm")]
    assert not re.search(rf"invoke \S*(start|\$\S*action)\S* .*{UNIT}", scripts[0]), scripts[0]
    for line in re.findall(rf".*stop .*{UNIT}.*", scripts[1]):
        assert '"$1" = remove' in scripts[1].split(line)[0].splitlines()[-1], scripts[1]


def test_agent_service(root: CleanRoot, deb: Path) -> None:
    """Enabled and sound; where systemd runs, dpkg starts it, restarts it after an upgrade, and stops it when it goes. All of that
    under a systemd is in tests/service."""
    root.install(deb)
    assert root.run(["systemctl", "is-enabled", SOCKET, AGENT, DDNS]).stdout == 3 * "enabled\n"
    done = root.run(["systemd-analyze", "verify", "--man=yes", SOCKET, AGENT, DDNS])
    assert done.stdout == "", done.stdout
    assert root.path("/lib/systemd/system/vmnet-ddns@.service").exists()
    assert "Usage: vmnet-hookd" in root.run(["vmnet-hookd", "--help"]).stdout
    postinst, prerm = (root.path(f"/var/lib/dpkg/info/vmnet-hooks.{name}").read_text() for name in ("postinst", "prerm"))
    assert re.search(rf"_dh_action=restart\n.*_dh_action=start\n.*invoke \$_dh_action .*{AGENT}", postinst, re.S), postinst
    (stop,) = re.findall(rf".*invoke stop .*{AGENT}.*", prerm)
    assert SOCKET in stop and '"$1" = remove' in prerm.split(stop)[0].splitlines()[-1], prerm


def test_unit_of_servers(root: CleanRoot, deb: Path) -> None:
    """vmnet-hook starts and stops its instances: dpkg does neither, and enables none."""
    root.install(deb)
    if not root.path("/usr/sbin/dnsmasq").exists():
        root.write("/usr/sbin/dnsmasq", "#!/bin/sh\n", 0o755)
    done = root.run(["systemd-analyze", "verify", "--man=yes", SERVER.replace("@", "@lan")])
    assert done.stdout == "", done.stdout
    assert root.run(["systemctl", "is-enabled", SERVER], check=False).stdout.strip() in ("static", "disabled")
    for name in ("postinst", "prerm", "postrm"):
        script = root.path(f"/var/lib/dpkg/info/vmnet-hooks.{name}").read_text()
        assert not re.search(rf"(invoke|enable|unmask|stop) .*{SERVER}", script), script


def test_agent_of_the_installed_program(root: CleanRoot, deb: Path) -> None:
    """Without a systemd: it serves the installed hook, which does without Python then, and ends when told to."""
    root.install(deb)
    root.write("/tmp/agent.sh", AGENT_SCRIPT, 0o755)
    root.write("/tmp/domain.xml", xml("nowhere"))
    lines = root.run(["unshare", "--net", "--mount", "/tmp/agent.sh"]).stdout.splitlines()
    assert "agent: not running" in lines[0], lines
    assert "nowhere" in lines[1] and lines[2] == "status 2", lines
    assert re.search(r"agent: runs since .*: 1 calls served", lines[3]), lines
    assert lines[4:] == ['vmnet_requests_total{frontend="libvirt/qemu",operation="start",status="2"} 1', "ended 0"], lines


AGENT_SCRIPT = f"""#!/bin/sh
mount -t sysfs sysfs /sys
vmnet-hook status 2>&1 | tail -n 1
vmnet-hookd &
until vmnet-hook status 2>&1 | grep -q 'agent: runs'; do sleep 0.1; done
mv /usr/bin/python3 /usr/bin/python3.away
{HOOK} dom1 start begin - </tmp/domain.xml
echo status $?
mv /usr/bin/python3.away /usr/bin/python3
vmnet-hook status 2>&1 | tail -n 1
until grep -s ^vmnet_requests /run/vmnet-hookd/metrics.prom; do sleep 0.1; done
kill $!; wait $!
echo ended $?
"""


def test_host_networks_of_the_installed_program(root: CleanRoot, deb: Path) -> None:
    """`up` by the service's own command, `down`, and ifupdown's links, in a network namespace."""
    root.install(deb)
    root.write("/etc/vmnet-hooks/conf.d/lab.toml", LAB)
    root.write("/tmp/lab.sh", LAB_SCRIPT, 0o755)
    command = re.search(r"^ExecStart=(.*)", root.path(f"/lib/systemd/system/{UNIT}").read_text(), flags=re.M)[1]
    out = root.run(["unshare", "--net", "--mount", "/tmp/lab.sh", command]).stdout
    assert out.splitlines() == [
        "up bridge br0",
        "br0 vmnet-hooks 10.0.0.1/24",
        "up: nothing to do",
        "ok",
        "down bridge br0",
        "gone",
        "rules: 22000: 22001: 22002: 22002:",
        "rules:",
    ], out


LAB = """[bridges.br0]
ports = ["eth0"]
addresses = ["10.0.0.1/24"]
"""
LAB_SCRIPT = """#!/bin/sh -e
mount -t sysfs sysfs /sys
ip link set lo up
ip link add eth0 type veth peer name end0
$1
ip -j link show br0 | python3 -c 'import json, sys; print("br0", json.load(sys.stdin)[0]["ifalias"], end=" ")'
ip -o -4 addr show dev br0 | awk '{ print $4 }'
vmnet-hook up
vmnet-hook check
vmnet-hook down
[ -e /sys/class/net/br0 ] || echo gone
export IFACE=eth0 LOGICAL=eth0 ADDRFAM=inet IF_IP_ROUTING_TABLE=222 IF_IP_ROUTES=192.0.2.0/24 \\
    IF_IP_GATEWAY=192.0.2.1 IF_ARP_IP=192.0.2.254
MODE=start /etc/network/if-up.d/vmnet-hooks
echo rules: $(ip rule show | grep -o '^2200[0-9]:')
MODE=stop /etc/network/if-down.d/vmnet-hooks
echo rules: $(ip rule show | grep -o '^2200[0-9]:' || :)
"""


def test_shell_completion(root: CleanRoot, deb: Path) -> None:
    root.install(deb)
    script = """. /usr/share/bash-completion/bash_completion; _completion_loader vmnet-hook
        COMP_WORDS=(vmnet-hook va); COMP_CWORD=1; complete -p vmnet-hook
        _vmnet_hook_completion vmnet-hook va vmnet-hook
        echo "reply: ${COMPREPLY[*]}" """
    assert "reply: validate\n" in root.run(["bash", "-c", script]).stdout
    for path in (
        "/usr/share/zsh/vendor-completions/_vmnet-hook",
        "/usr/share/fish/vendor_completions.d/vmnet-hook.fish",
    ):
        assert "_VMNET_HOOK_COMPLETE" in root.path(path).read_text()


def test_guest_through_the_installed_hooks(root: CleanRoot, deb: Path) -> None:
    """The package's own autopkgtest."""
    root.install(deb)
    root.write("/tmp/guest-in-namespaces", (ROOT / "debian/tests/guest-in-namespaces").read_text(), 0o755)
    out = root.run(["/tmp/guest-in-namespaces"], timeout=180).stdout
    print(out)
    assert out.count("the host is as it was") == 2


def test_virsh_start_through_the_installed_hook(root: CleanRoot, deb: Path) -> None:
    """A real libvirtd and a real guest in the clean root. The lab comes from the tree, the hook from the package."""
    root.install(deb)
    for part in ("lab", "libvirt", "package"):
        shutil.copytree(ROOT / "tests" / part, root.path(f"/srv/vmnet-test/tests/{part}"), ignore=IGNORED)
    out = root.run(["/usr/bin/python3", "/srv/vmnet-test/tests/package/virsh_start.py"], timeout=300).stdout
    print(out)
    assert out.endswith("nothing is left\n"), out


def test_upgrade_keeps_what_the_admin_wrote(root: CleanRoot, deb: Path, tmp_path: Path) -> None:
    root.install(deb)
    edited = "# edited\n" + (ROOT / "etc/examples/routed-and-bridged.toml").read_text()
    root.write("/etc/vmnet-hooks/vmnet.toml", edited)
    root.write("/etc/vmnet-hooks/domains.d/web1.toml", "# mine\n")
    root.write("/run/vmnet-hooks/kept", "")
    newer = build(tmp_path / "newer", "9.9.9", DEB_BUILD_OPTIONS="nocheck")
    said = root.install(newer)
    assert "stay as they are" not in said
    assert root.run("dpkg-query -W -f '${Version} ${db:Status-Status}' vmnet-hooks").stdout == "9.9.9 installed"
    assert root.path("/etc/vmnet-hooks/vmnet.toml").read_text() == edited
    assert root.path("/etc/vmnet-hooks/domains.d/web1.toml").read_text() == "# mine\n"
    assert root.path("/run/vmnet-hooks/kept").exists()
    assert not [name for name in os.listdir(root.path("/etc/vmnet-hooks")) if "dpkg" in name]
    root.run(["vmnet-hook", "validate"])
    assert root.run([HOOK, "dom1", "start", "begin", "-"], input=xml("nowhere"), check=False).returncode == 2


def test_remove_then_purge_leaves_nothing(root: CleanRoot, deb: Path) -> None:
    before, status = root.files(), root.path("/var/lib/dpkg/status").read_text()
    root.install(deb)
    # What use leaves behind: bytecode, records, a table's name, the admin's files.
    root.run(["vmnet-hook", "--help"])
    root.run(["vmnet-hook", "validate"])
    root.run(["vmnet-hook", "xen-scripts", "--divert"])
    root.write("/run/vmnet-hooks/state.db", "x")
    root.write("/run/vmnet-hooks/lock", "")
    root.write("/run/vmnet-hookd/metrics.prom", "")
    root.write("/run/vmnet-hosts/vif1.0", "")
    root.write("/etc/iproute2/rt_tables.d/vmnet-snf_routed.conf", "222 snf_routed\n")
    root.write("/etc/iproute2/rt_tables.d/mine.conf", "77 mine\n")
    root.write("/etc/vmnet-hooks/domains.d/web1.toml", "# mine\n")
    root.write("/etc/vmnet-hooks/conf.d/more.toml", "# mine\n")
    said = root.run(["dpkg", "-r", "vmnet-hooks"]).stdout
    assert said.count("vmnet-hooks: host networks, and routes and filters of guests, stay as they are") == 1, said
    assert "warning" not in said, said
    assert not root.path(HOOK).is_symlink() and not root.path(HOOKS).exists()
    assert not [link for link in IFUPDOWN if root.path(link).is_symlink()]
    assert not root.path("/usr/lib/python3/dist-packages/vmnet_hooks").exists()
    assert not root.path("/run/vmnet-hookd").exists()
    for kept in (
        "/etc/vmnet-hooks/vmnet.toml",
        "/etc/vmnet-hooks/domains.d/web1.toml",
        "/run/vmnet-hooks/state.db",
        "/run/vmnet-hosts/vif1.0",
        "/etc/iproute2/rt_tables.d/vmnet-snf_routed.conf",
    ):
        assert root.path(kept).exists(), kept
    said = root.run(["dpkg", "-P", "vmnet-hooks"]).stdout
    # Debian 12's systemd calls the first /lib/systemd/network, so dpkg tries to remove it with our package. In Debian 13 no other
    # package has the others, and the admin's file is in them.
    for known in ("/usr/lib/systemd/network", "/etc/iproute2/rt_tables.d", "/etc/iproute2"):
        said = said.replace(f"dpkg: warning: while removing vmnet-hooks, directory '{known}' not empty", "")
    assert "warning" not in said, said
    root.path("/etc/iproute2/rt_tables.d/mine.conf").unlink()  # the admin's own: purge must not have touched it
    # In Debian 13 the admin's file kept its folders.
    root.run("rmdir -p --ignore-fail-on-non-empty /etc/iproute2/rt_tables.d")
    after = root.files()
    assert sorted(after - before) == [] and sorted(before - after) == []
    assert root.path("/var/lib/dpkg/status").read_text() == status


def test_libvirt_is_asked_to_look_for_hooks_once(root: CleanRoot, deb: Path, tmp_path: Path) -> None:
    """libvirt notices its first hook at start and SIGHUP only. systemd is not here: a stand-in for systemctl tells."""
    root.path("/run/systemd/system").mkdir(parents=True)
    root.write(
        "/usr/local/sbin/systemctl",
        """#!/bin/sh
        case "$*" in *is-active*virtqemud*) exit 3;; esac
        echo "systemctl $*" >>/run/asked\n""",
        0o755,
    )
    root.install(deb)
    assert "systemctl reload libvirtd.service\n" in root.path("/run/asked").read_text()
    assert "reload virtqemud" not in root.path("/run/asked").read_text()
    root.path("/run/asked").unlink()
    root.install(build(tmp_path / "newer", "9.9.9", DEB_BUILD_OPTIONS="nocheck"))
    asked = root.path("/run/asked")
    assert " reload " not in asked.read_text() and "restart vmnet-hookd.service" in asked.read_text()

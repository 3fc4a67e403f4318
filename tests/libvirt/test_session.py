"""A user's own guest (qemu:///session): libvirt runs the system's hooks as that user, who may read neither configuration nor
records."""

from __future__ import annotations

import pytest
from lab.hooks import HOOKS

pytestmark = pytest.mark.libvirt

USER = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "HOME=/run/somebody", "XDG_RUNTIME_DIR=/run/somebody"]
HELPER = "/usr/lib/qemu/qemu-bridge-helper"
DOMAIN = """<domain type='qemu'><name>own</name><memory unit='KiB'>65536</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<interface type='bridge'><mac address='52:54:00:aa:00:10'/><source bridge='br0'/><model type='virtio'/></interface>
</devices></domain>
"""


def test_a_users_guest_on_the_bridge_of_a_network(lab):
    host = lab.host
    # The user may not be able to read the folders above the checkout.
    host.sh(f"""
        echo 'somebody:x:1000:1000::/run/somebody:/bin/sh' >> /etc/passwd; echo 'somebody:x:1000:' >> /etc/group
        mkdir -p /run/somebody /run/checkout /etc/qemu; chown 1000:1000 /run/somebody
        mount --bind {HOOKS.parent} /run/checkout
        echo 'allow br0' > /etc/qemu/bridge.conf
        cp {HELPER} /run/helper; chmod 4755 /run/helper; mount --bind /run/helper {HELPER}
        chmod 0700 /etc/vmnet-hooks
    """)
    host.path("/etc/libvirt/hooks/qemu.d/vmnet-hooks").unlink()
    host.link_hook("vmnet-hooks", "/run/checkout/hooks/libvirt/qemu")
    virsh = [*USER, "virsh", "-q", "-c", "qemu:///session"]
    try:
        host.write("/run/somebody/own.xml", DOMAIN)
        host.run([*virsh, "create", "/run/somebody/own.xml"], timeout=60)
        assert host.run([*virsh, "domstate", "own"]).stdout.strip() == "running"
        assert "tap0" in host.run("ip -o link show master br0").stdout
    finally:
        host.run([*virsh, "destroy", "own"], check=False)
        host.sh(f"umount {HELPER}; rm -f /run/helper; chmod 0755 /etc/vmnet-hooks", check=False)
        host.path("/etc/libvirt/hooks/qemu.d/vmnet-hooks").unlink()
        host.sh("umount /run/checkout", check=False)
    # Root's guests are ours as before, and so are their errors: conftest links the hook again.

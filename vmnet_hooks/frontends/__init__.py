"""The registry of front ends: what each installed hook is called, and which calls matter at all.

A front end is a module with `parse(request) -> Event | None` and, where somebody waits for more than an exit status,
`conclude(event)` (after all is done) and `failed(request, reason)`. This file must stay free of imports: every hook reads it.
"""

# hook (the link's last two path components): (module, position of the operation in argv or 0, operations that matter, what the
# agent needs to do it: "stdin" if it is read, "argv" if not; "" if it is done by the hook itself: by hand, at boot)
FRONTENDS = {
    "libvirt/qemu": ("libvirt", 2, ("prepare", "start", "started", "stopped", "release", "reconnect", "migrate"), "stdin"),
    "qemu/ifup": ("qemu", 0, (), "argv"),
    "qemu/ifdown": ("qemu", 0, (), "argv"),
    "ifupdown/vmnet": ("ifupdown", 0, (), ""),
    "xen/vif-bridge": ("xen", 0, (), "argv"),
    "xen/vif-route": ("xen", 0, (), "argv"),
    "xen/vif-nat": ("xen", 0, (), "argv"),
    "xen/vif-setup": ("xen", 0, (), ""),
    "xen/network-bridge": ("xen_network", 0, (), ""),
    "xen/network-route": ("xen_network", 0, (), ""),
    "xen/network-nat": ("xen_network", 0, (), ""),
}

CONFIGURATION = "/etc/vmnet-hooks"

# hook: the environment variable without which a call is none of ours
VARIABLES = {"ifupdown/vmnet": b"IF_IP_ROUTING_TABLE"}


def of(path: str) -> str:
    """The front end that a hook's path stands for; "" if none."""
    name = "/".join(path.split("/")[-2:])
    if name in FRONTENDS:
        return name
    # An admin's copy or link in Xen's own folder, or in libvirt's.
    if "/scripts/" in path and (copy := "xen/" + path.rpartition("/")[2].removeprefix("vmnet-")) in FRONTENDS:
        return copy
    return "libvirt/qemu" if path.endswith("/hooks/qemu") or "/hooks/qemu.d/" in path else ""

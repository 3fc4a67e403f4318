"""The registry of front ends, one row each. Every call of a hook loads this file, ignored calls included, so it imports nothing.
hooks/client.c is compiled with it, see hooks/table.py.

A hook is one installed script, hooks/FOLDER/SCRIPT; its name is "FOLDER/SCRIPT". The code of a front end is in the module that
its row names, see front_end.py.
"""


class Row:
    """The properties of a front end that are needed without its module.

    `name` is its name in events and records, `module` the Python module that defines FRONT_END. `scripts` are installed in
    `folder` (default: `name`). The package links them to `links`; an admin may copy or link them to `places`, where `*` matches
    any text. `{}` is the script's name in both.

    `position` is the number of the argument with the operation (0: no operation). Calls with other operations than `operations`
    are ignored; those in `preparing` matter only if a bridge may be declared. A failure of an operation in `lenient` must not
    reach the hypervisor, which would kill a running guest. With `variable`, a call matters only if that environment variable is
    set, or if a mark exists for the values of the variables `mark` (see hook.has_mark).

    With `of_root`, calls by other users are ignored.

    `served` are the scripts that the agent serves. `stdin` is set if they read the standard input. The agent serves calls with
    the same value of the first variable of `order` that is set (without `order`: the same first argument) one after the other.
    `described` is the help text of `vmnet-hook start --NAME`, for guests that are not described by XML.
    """

    __slots__ = (
        *("name", "module", "scripts", "folder", "links", "places", "position", "operations", "preparing", "lenient"),
        *("variable", "mark", "of_root", "served", "stdin", "order", "described"),
    )

    def __init__(
        self,
        name: str,
        module: str,
        scripts: tuple[str, ...],
        *,
        folder: str = "",
        links: tuple[str, ...] = (),
        places: tuple[str, ...] = (),
        position: int = 0,
        operations: tuple[str, ...] = (),
        preparing: tuple[str, ...] = (),
        lenient: tuple[str, ...] = (),
        variable: bytes = b"",
        mark: tuple[bytes, ...] = (),
        of_root: bool = False,
        served: tuple[str, ...] = (),
        stdin: bool = False,
        order: tuple[str, ...] = (),
        described: str = "",
    ) -> None:
        self.name = name
        self.module = module
        self.scripts = scripts
        self.folder = folder or name
        self.links = links
        self.places = places
        self.position = position
        self.operations = operations
        self.preparing = preparing
        self.lenient = lenient
        self.variable = variable
        self.mark = mark
        self.of_root = of_root
        self.served = served
        self.stdin = stdin
        self.order = order
        self.described = described

    def operation(self, argv: list[str]) -> str:
        """Return the operation of a call; "" if it has none."""
        return argv[self.position] if 0 < self.position < len(argv) else ""

    def has_place(self, script: str, path: str) -> bool:
        """Return whether `path` is one of `places`, for this script."""
        for place in self.places:
            inside, _, end = place.format(script).partition("*")
            if inside in path and path.endswith(end):
                return True
        return False


FRONT_ENDS = (
    Row(
        "libvirt",
        "vmnet_hooks.frontends.libvirt",
        ("qemu",),
        links=("/etc/libvirt/hooks/qemu.d/vmnet-hooks",),
        places=("*/hooks/{}", "/hooks/{}.d/*"),
        position=2,
        operations=("prepare", "start", "started", "stopped", "release", "reconnect", "migrate"),
        preparing=("prepare",),
        lenient=("started", "reconnect"),
        of_root=True,
        served=("qemu",),
        stdin=True,
    ),
    Row("qemu", "vmnet_hooks.frontends.qemu", ("ifup", "ifdown"), served=("ifup", "ifdown")),
    Row(
        "ifupdown",
        "vmnet_hooks.frontends.ifupdown",
        ("vmnet",),
        links=("/etc/network/if-up.d/vmnet-hooks", "/etc/network/if-down.d/vmnet-hooks"),
        variable=b"IF_IP_ROUTING_TABLE",
        mark=(b"IFACE", b"ADDRFAM"),
    ),
    Row(
        "xen",
        "vmnet_hooks.frontends.xen",
        ("vif-bridge", "vif-route", "vif-nat", "vif-setup"),
        links=("/etc/xen/scripts/vmnet-{}",),
        places=("/scripts*/{}", "/scripts*/vmnet-{}"),
        # vif-setup is not served: it replaces its process by another script.
        served=("vif-bridge", "vif-route", "vif-nat"),
        order=("vif", "XENBUS_PATH"),
        described="DOMAIN is a guest of Xen's xl: its NICs are those in xenstore.",
    ),
    Row(
        "xen-network",
        "vmnet_hooks.frontends.xen_network",
        ("network-bridge", "network-route", "network-nat"),
        folder="xen",
        links=("/etc/xen/scripts/vmnet-{}",),
        places=("/scripts*/{}", "/scripts*/vmnet-{}"),
    ),
)


def hooks() -> dict[str, Row]:
    """Return the rows by hook name."""
    return {f"{row.folder}/{script}": row for row in FRONT_ENDS for script in row.scripts}


def of(path: str) -> str:
    """Return the name of the hook at a path; "" if none."""
    found = hooks()
    name = "/".join(path.split("/")[-2:])
    if name in found:
        return name
    for name, row in found.items():
        if row.has_place(name.rpartition("/")[2], path):
            return name
    return ""

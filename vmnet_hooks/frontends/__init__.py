"""The registry of front ends: one row each. Every hook reads this file, ignored calls included, so it imports nothing.

A hook is one installed script, hooks/FOLDER/SCRIPT; "FOLDER/SCRIPT" names it wherever one of them is meant. What a front end does
is in the module that its row names, see front_end.py.
"""


class Row:
    """What is known of a front end before its module is loaded.

    `name` is the front end's in events and records, `module` the Python module with its FRONT_END. Its `scripts` are installed in
    `folder` (default: its name). The package links them to `links`, and an admin may copy or link them to `places`, where `*`
    stands for anything; `{}` is the script's name in both.

    Argument number `position` is the operation (0: there is none). Only `operations` matter; `preparing` ones matter only where
    a bridge may be declared. A failure of a `lenient` one must not reach the hypervisor: it would kill a guest that runs. With
    `variable`, a call matters if that variable is set, or if there is a mark under the values of the variables `mark`.

    The agent serves the scripts `served`, and needs the standard input of those that read it (`stdin`). It serves calls that
    agree in the first set variable of `order` (none: in the first argument) one after the other. `described` is the help of
    `vmnet-hook start --NAME`, for guests that no XML describes.
    """

    __slots__ = (
        *("name", "module", "scripts", "folder", "links", "places", "position", "operations", "preparing", "lenient"),
        *("variable", "mark", "served", "stdin", "order", "described"),
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
        self.served = served
        self.stdin = stdin
        self.order = order
        self.described = described

    def operation(self, argv: list[str]) -> str:
        """The operation of a call; "" if it has none."""
        return argv[self.position] if 0 < self.position < len(argv) else ""

    def has_place(self, script: str, path: str) -> bool:
        """Whether `path` is one where an admin puts a copy of the script, or a link to it."""
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
        # vif-setup runs another script in its own place.
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
    """The rows, by the name of each hook."""
    return {f"{row.folder}/{script}": row for row in FRONT_ENDS for script in row.scripts}


def of(path: str) -> str:
    """The hook that a path stands for; "" if none."""
    found = hooks()
    name = "/".join(path.split("/")[-2:])
    if name in found:
        return name
    for name, row in found.items():
        if row.has_place(name.rpartition("/")[2], path):
            return name
    return ""

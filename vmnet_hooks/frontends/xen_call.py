"""Parses a call of one of Xen's vif scripts, as libxl makes it: `SCRIPT online|offline|add|remove [type_if=vif|tap] [VAR=VAL…]`.

`online` and `offline` concern a paravirtual vif (vifDOMID.DEVID), `add` and `remove` the tap that QEMU made for the same NIC of
an HVM guest (vifDOMID.DEVID-emu).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import InputError, one_line
from ..model.guest import NicEvent

COMMANDS = {"online": "vif", "offline": "vif", "add": "tap", "remove": "tap"}
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)
INTERFACE = re.compile(r"vif(\d{1,5})\.(\d{1,5})(?:-emu)?", re.ASCII)
_PATH = re.compile(r"(?:/?local/domain/\d+/)?backend/vif/(\d{1,5})/(\d{1,5})", re.ASCII)


@dataclass(frozen=True)
class Call:
    """One call of a script. `variables` are the VAR=VAL arguments. `ifname` is the name that the driver gave to the link;
    `netdev` is from the environment."""

    script: str
    command: str
    variables: Mapping[str, str]
    domid: int
    devid: int
    ifname: str
    netdev: str = ""

    @property
    def path(self) -> str:
        # A path in xenstore, relative to that of this domain: backends may be in a driver domain.
        return f"backend/vif/{self.domid}/{self.devid}"

    @property
    def emulated(self) -> bool:
        return COMMANDS[self.command] == "tap"

    @property
    def arrives(self) -> bool:
        return self.command in ("online", "add")

    @property
    def vif(self) -> str:
        return f"{self.devid}-emu" if self.emulated else str(self.devid)

    @property
    def owner(self) -> str:
        """The owner's ID in the records."""
        return f"xen:{self.domid}/{self.vif}"


@dataclass(frozen=True, kw_only=True)
class VifEvent(NicEvent):
    """An event of a vif. `backend` are the backend's settings in xenstore, None on clean-up."""

    call: Call
    backend: Mapping[str, str] | None = None


def read_call(script: str, words: Sequence[str], environ: Mapping[str, str]) -> Call | None:
    """Return the call of a script with these arguments; None where Xen's own script would do nothing. Raise InputError."""
    variables = {found[1]: found[2] for word in words if (found := VARIABLE.fullmatch(word))}
    command = next((word for word in words if "=" not in word), "")
    if command not in COMMANDS:
        raise InputError(f"{script}: {one_line(repr(command))} is no command; use one of {', '.join(COMMANDS)}")
    kind = variables.get("type_if", "vif")
    if kind not in ("vif", "tap"):
        raise InputError(f"{script}: type_if={one_line(kind)} is neither vif nor tap")
    if kind != COMMANDS[command]:
        return None
    word = "vif" if kind == "vif" else "INTERFACE"
    ifname, path = environ.get(word, ""), environ.get("XENBUS_PATH", "")
    where = INTERFACE.fullmatch(ifname) if kind == "tap" else _PATH.fullmatch(path)
    if where is None:
        name, value = (word, ifname) if kind == "tap" else ("XENBUS_PATH", path)
        raise InputError(f"{script}: {name} is {one_line(repr(value))}; libxl sets it, see vmnet-hook(8)")
    domid, devid = int(where[1]), int(where[2])
    return Call(script, command, variables, domid, devid, ifname or f"vif{domid}.{devid}", environ.get("netdev", ""))


T = TypeVar("T")


def parsed(parse: Callable[[str], T], value: str, where: str) -> T:
    """Return a setting's value, parsed. Raise InputError, for the setting at `where`."""
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(f"{where}: {one_line(repr(value))[:80]} {error}") from None

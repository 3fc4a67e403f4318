"""The ends of wires: NICs of guests, and links of the host. Plain data."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .guest import Vif


class End(NamedTuple):
    """An end of a wire: a NIC of a guest, or a `link` of the host. The NIC is told by its number in the guest's description, by
    its MAC, or by the name of its tap; the others are None or "" then."""

    domain: str = ""
    number: int | None = None
    mac: str = ""
    ifname: str = ""
    link: str = ""

    def __str__(self) -> str:
        return f"link:{self.link}" if self.link else f"{self.domain}:{self.nic}"

    @property
    def nic(self) -> str:
        """The NIC, as it is declared."""
        return str(self.number) if self.number is not None else self.mac or self.ifname

    def is_of(self, vif: "Vif") -> bool:
        """Return whether a NIC of the domain is this end. The emulated link of a guest of Xen is, with the other one."""
        if self.number is not None:
            return vif.index == self.number
        if self.mac:
            return vif.mac == self.mac
        return vif.ifname == self.ifname or bool(vif.twin and vif.ifname == f"{self.ifname}-emu")

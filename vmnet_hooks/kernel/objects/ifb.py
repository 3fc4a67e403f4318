"""The ifb on which checksums are finished."""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import InTheWay
from ...model.objects import Ifb
from ...model.objects.link import IFB_INDEX, IFB_MAC, IFB_QUEUE_LENGTH, IFB_QUEUES
from ...model.resource import ALIAS, IFB
from .. import wire
from ..netlink import View
from . import Edge, sysctl

_SIOCETHTOOL = 0x8946
_GET_TX, _SET_TX = 0x16, 0x17
"""ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM: of all checksums at once. Every call of a hook asks, and pyroute2 is slow to load."""
_ADDR_GEN_MODE_NONE = 1


class Ifbs(Edge[Ifb]):
    refused = InTheWay

    def read(self, wanted: Sequence[Ifb], view: View) -> Iterable[Ifb]:
        link = view.link(IFB)
        if link is None:
            return []
        state = "up" if link.flags & wire.UP else "down"
        return [Ifb(link.index, link.kind, link.alias, "on" if _tx(_GET_TX) else "off", state)]

    def set(self, want: Ifb, have: Ifb | None, view: View) -> None:
        if have and not have.is_made:
            view.netlink.delete_link(have.index)
            have = None
        if have is None:
            with view.netlink.pyroute2() as ip:
                queues = {"num_tx_queues": IFB_QUEUES, "txqlen": IFB_QUEUE_LENGTH}
                ip.link("add", ifname=IFB, kind="ifb", index=IFB_INDEX, address=IFB_MAC, **queues)
                ip.link("set", index=IFB_INDEX, ifalias=ALIAS)
            # It has nothing to say itself.
            if os.path.exists(f"{sysctl.ROOT}/net/ipv6/conf/{IFB}"):
                sysctl.write_value(f"net/ipv6/conf/{IFB}/addr_gen_mode", str(_ADDR_GEN_MODE_NONE))
        _tx(_SET_TX, want.tx == "on")
        view.netlink.set_link(IFB_INDEX, up=want.state == "up")

    def unset(self, have: Ifb, view: View) -> None:
        view.netlink.delete_link(view.netlink.index(IFB))

    def ours(self, view: View) -> Iterator[Ifb]:
        link = view.link(IFB)
        if link and link.alias == ALIAS:
            yield from self.read([Ifb()], view)


def _tx(command: int, on: bool = False) -> bool:
    """Ask, or tell, whether the device computes checksums. Raises OSError."""
    value = array.array("I", [command, on])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, _SIOCETHTOOL, struct.pack("16sP16x", IFB.encode(), value.buffer_info()[0]))
    return bool(value[1])


EDGES: Mapping[str, Edge] = {Ifb.kind: Ifbs()}

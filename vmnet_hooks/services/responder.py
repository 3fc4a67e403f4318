"""One answer to whatever frame a guest sends: the services told apart."""

from . import dhcp4, dhcp6, packets, router_advertisement
from .terms import Terms


def answer(frame: bytes, terms: Terms, mac: bytes) -> bytes | None:
    """Return the frame that answers a guest's request for its IPv4 or IPv6 configuration, sent from `mac`; None if the frame is
    none, or no answer is due. Never raises. Frames with a VLAN tag are not answered."""
    if frame[12:14] == packets.IPV4:
        return dhcp4.answer(frame, terms, mac)
    if frame[12:14] != packets.IPV6:
        return None
    if frame[20:21] == bytes((packets.ICMPV6,)):
        return router_advertisement.answer(frame, terms, mac)
    return dhcp6.answer(frame, terms, mac)

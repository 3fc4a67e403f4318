"""Plain QEMU's `-netdev tap,script=,downscript=` and libvirt's <script>/<downscript> of type ethernet: argv TAP, nothing else.

domains.d tells which guest a tap belongs to, by `ifname`.
"""

import os

from .. import values
from ..declared import configuration
from ..errors import ConfigError, InputError
from ..model import declaration
from ..model.guest import Action, Domain, GuestEvent, Vif
from .front_end import FrontEnd, Request


def parse(request: Request) -> GuestEvent | None:
    """Return the event of a call; None where there is nothing to do. Raises InputError or ConfigError."""
    argv = request.argv
    if len(argv) < 2:
        raise InputError("usage: ifup|ifdown TAP (QEMU and libvirt call this, see vmnet-hook(8))")
    try:
        tap = values.ifname(argv[1])
    except ValueError as error:
        raise InputError(f"tap {argv[1]!r} {error}") from None
    if argv[0].endswith("ifdown"):
        if _is_libvirt(request.parent) and os.path.exists(f"/sys/class/net/{tap}"):
            # libvirt's own tap is gone by now. This one is another guest's: the start failed because its name was taken.
            return None
        # The configuration may have changed since. The records know whose tap it was.
        return GuestEvent(Action.UNPLUG, "qemu", Domain(""), tap)
    found = configuration.claims_by_tap(request.declared(), tap)
    if found is None:
        raise ConfigError(f"{declaration.DIRECTORY}/domains.d: no file claims ifname {tap!r}; add an [[interfaces]] table for it")
    domain, claim = found
    if not claim.mac:
        raise ConfigError(f"{claim.source}.mac: missing; plain QEMU does not tell us the MAC of {tap}")
    guest = Domain(domain, "", (Vif(claim.mac, tap),), (claim,), partial=True)
    return GuestEvent(Action.PLUG, "qemu", guest, tap, announce=not _started_follows(domain, request.parent))


def _started_follows(domain: str, parent: int) -> bool:
    """Return whether libvirt will call its own hook at `started`: at a start (also an incoming migration's), not at a hot-plug,
    when the domain's status file is there already."""
    return _is_libvirt(parent) and not os.path.exists(f"/run/libvirt/qemu/{domain}.xml")


def _is_libvirt(process: int) -> bool:
    try:
        with open(f"/proc/{process}/comm") as file:
            return file.read().strip() in ("libvirtd", "virtqemud")
    except OSError:
        return False


FRONT_END = FrontEnd(parse)

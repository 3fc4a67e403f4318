"""Plain QEMU's `-netdev tap,script=,downscript=`, and libvirt's <script>/<downscript> of type ethernet. The only argument is the
tap. The claims in domains.d, and the ends of wires, assign taps to guests by the tap's name.
"""

import os

from .. import values
from ..declared import configuration
from ..errors import ConfigError, InputError
from ..model import declaration
from ..model.guest import Action, Domain, GuestEvent, Vif
from .front_end import FrontEnd, Request

HOOKS = "/etc/libvirt/hooks"


def parse(request: Request) -> GuestEvent | None:
    """Return the event of a call; None if there is nothing to do. Raise InputError or ConfigError."""
    argv = request.argv
    if len(argv) < 2:
        raise InputError("usage: ifup|ifdown TAP (QEMU and libvirt call this, see vmnet-hook(8))")
    try:
        tap = values.ifname(argv[1])
    except ValueError as error:
        raise InputError(f"tap {argv[1]!r} {error}") from None
    if argv[0].endswith("ifdown"):
        if _is_libvirt(request.parent) and os.path.exists(f"/sys/class/net/{tap}"):
            # libvirt has already removed its tap. This one belongs to another guest: the start failed because the name was in
            # use.
            return None
        # The configuration may have changed since the start. The record of the tap has the guest.
        return GuestEvent(Action.UNPLUG, "qemu", Domain(""), tap)
    declared = request.declared()
    if domain := _at_wire(declared, tap):
        guest = Domain(domain, "", (Vif("", tap, id=tap),), partial=True)
    else:
        found = configuration.claims_by_tap(declared, tap)
        if found is None:
            raise ConfigError(
                f"{declaration.DIRECTORY}/domains.d: no file claims ifname {tap!r}; add an [[interfaces]] table for it"
            )
        domain, claim = found
        if not claim.mac:
            raise ConfigError(f"{claim.source}.mac: missing; plain QEMU does not tell us the MAC of {tap}")
        guest = Domain(domain, "", (Vif(claim.mac, tap),), (claim,), partial=True)
    return GuestEvent(Action.PLUG, "qemu", guest, tap, announce=not _started_follows(domain, request.parent, argv[0]))


def _at_wire(declared: declaration.Config, tap: str) -> str:
    """Return the guest whose tap is an end of a wire; "" if there is none."""
    return next((domain for domain, ends in declared.ends.items() for _, end in ends if end.ifname == tap), "")


def _started_follows(domain: str, parent: int, script: str) -> bool:
    """Return whether libvirt will call our hook with `started`: it does at a start and at an incoming migration, but not when it
    attaches a NIC to a running guest, whose status file exists already, and not where it has no hook of ours."""
    return _is_libvirt(parent) and not os.path.exists(f"/run/libvirt/qemu/{domain}.xml") and _is_hooked(script)


def _is_hooked(script: str) -> bool:
    """Return whether libvirt has a hook that is the program which this script is, too. One that only runs it is not recognised:
    then the guest is announced twice."""
    try:
        there = [f"{HOOKS}/qemu", *(f"{HOOKS}/qemu.d/{name}" for name in os.listdir(f"{HOOKS}/qemu.d"))]
    except OSError:
        there = [f"{HOOKS}/qemu"]
    return os.path.realpath(script) in map(os.path.realpath, there)


def _is_libvirt(process: int) -> bool:
    try:
        with open(f"/proc/{process}/comm") as file:
            return file.read().strip() in ("libvirtd", "virtqemud")
    except OSError:
        return False


FRONT_END = FrontEnd(parse)

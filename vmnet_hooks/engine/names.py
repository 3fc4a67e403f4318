"""Taps that were renamed while their guests run: filters, routes and settings are by name. The old name is given back; where
another link has it, the tap is shut."""

from collections.abc import Iterable

from ..errors import ConflictError, VmnetError
from ..model.objects import LinkAttribute
from ..model.owner import Nic
from ..model.plan import Change
from . import Session, name_now


def put_back(session: Session, nics: Iterable[Nic]) -> tuple[list[Nic], dict[str, str]]:
    """Give the taps their names again. Returns the NICs of those that were renamed, and by owner's id why one could not be named,
    and was set down. Needs the lock."""
    done, failed = [], {}
    for nic in nics:
        if now := name_now(session, nic):
            try:
                _rename(session, now, nic.ifname)
                done.append(nic)
            except VmnetError as error:
                failed[nic.id] = f"{nic.domain}: tap {now} was {nic.ifname}, and is set down: {error}"
    return done, failed


def _rename(session: Session, now: str, ifname: str) -> None:
    # Not before it has its filter again: older kernels rename only what is down.
    _set_state(session, now, "down")
    if (other := session.kernel.link(ifname)) and other.name == ifname:
        raise ConflictError("another link has its name; rename that one, then `vmnet-hook repair`")
    session.kernel.rename(now, ifname)
    _set_state(session, ifname, "up")


def _set_state(session: Session, ifname: str, state: str) -> None:
    session.kernel.apply([Change(None, LinkAttribute(ifname, "state", state))])

"""Asks hypervisors about guests. None of this may be called while a hypervisor waits for a hook."""

from collections.abc import Sequence

from .. import frontends
from ..errors import InputError
from ..model.guest import Domain
from ..model.owner import Owner, nics
from .front_end import load


def gone(owners: Sequence[Owner]) -> set[str]:
    """Return the IDs of domains that do not run any more, according to their hypervisors. Domains of a hypervisor that can't be
    asked count as running."""
    by_name: dict[str, set[str]] = {}
    for nic in nics(owners):
        by_name.setdefault(nic.frontend, set()).add(nic.domain_id)
    rows = [row for row in frontends.FRONT_ENDS if row.name in by_name]
    return {domain_id for row in rows for domain_id in by_name[row.name] - load(row).alive(by_name[row.name])}


def described() -> dict[str, Domain | InputError]:
    """Return the running domains of all hypervisors that can be asked, see FrontEnd.running."""
    return {domain_id: domain for row in frontends.FRONT_ENDS for domain_id, domain in load(row).running().items()}


def names() -> set[str]:
    """Return the names of all domains that the hypervisors know which can be asked."""
    return {name for row in frontends.FRONT_ENDS for name in load(row).names()}

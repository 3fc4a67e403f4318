"""Asks hypervisors about guests. Unless it is said otherwise, none of this may be called while a hypervisor waits for a hook."""

from collections.abc import Callable, Sequence

from .. import frontends
from ..errors import InputError
from ..model.declaration import Config
from ..model.guest import Domain
from ..model.owner import Nic, Owner, nics
from .front_end import load


def gone(owners: Sequence[Owner]) -> set[str]:
    """Return the IDs of domains that do not run any more, according to their hypervisors. Domains of a hypervisor that can't be
    asked count as running."""
    return {domain_id for row, domains in _by_front_end(owners).items() for domain_id in domains - load(row).alive(domains)}


def described() -> dict[str, Domain | InputError]:
    """Return the running domains of all hypervisors that can be asked, see FrontEnd.running."""
    return {domain_id: domain for row in frontends.FRONT_ENDS for domain_id, domain in load(row).running().items()}


def names() -> set[str]:
    """Return the names of all domains that the hypervisors know which can be asked."""
    return {name for row in frontends.FRONT_ENDS for name in load(row).names()}


def asks(owners: Sequence[Owner]) -> Callable[[], set[str]] | None:
    """Return a function that returns the IDs of those of the domains, all of which migrate here, that run here according to their
    hypervisors; None if none of these can tell."""
    known = [(ask, domains) for row, domains in _by_front_end(owners).items() if (ask := load(row).arrived)]
    return (lambda: {domain_id for ask, domains in known for domain_id in ask(domains)}) if known else None


def with_networks(declared: Config, owners: Sequence[Nic]) -> Config:
    """Return the configuration, extended by the networks of these NICs that front ends described and no file declares. May be
    called at any time."""
    for row in frontends.FRONT_ENDS:
        for name in {nic.network for nic in owners if nic.frontend == row.name and nic.described[0]}:
            if network := load(row).network(name):
                declared = declared.plus(network, ())
    return declared


def _by_front_end(owners: Sequence[Owner]) -> dict[frontends.Row, set[str]]:
    """Return the IDs of the domains of these owners, by the rows of their front ends."""
    rows = {row.name: row for row in frontends.FRONT_ENDS}
    found: dict[frontends.Row, set[str]] = {}
    for nic in nics(owners):
        if row := rows.get(nic.frontend):
            found.setdefault(row, set()).add(nic.domain_id)
    return found

"""Finds guests that do not run any more, by asking their hypervisors."""

from collections.abc import Sequence

from .. import frontends
from ..model.owner import Owner, nics
from .front_end import load


def gone(owners: Sequence[Owner]) -> set[str]:
    """Return the IDs of domains that do not run any more, according to their hypervisors. Domains of a hypervisor that can't be
    asked count as running. Must not be called while a hypervisor waits for a hook."""
    by_name: dict[str, set[str]] = {}
    for nic in nics(owners):
        by_name.setdefault(nic.frontend, set()).add(nic.domain_id)
    rows = [row for row in frontends.FRONT_ENDS if row.name in by_name]
    return {domain_id for row in rows for domain_id in by_name[row.name] - load(row).alive(by_name[row.name])}

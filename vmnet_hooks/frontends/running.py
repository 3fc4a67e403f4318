"""Which guests run no more: asks the hypervisors that can be asked."""

from collections.abc import Sequence

from ..model.owner import Owner
from . import libvirt_connection, xen


def gone(owners: Sequence[Owner]) -> set[str]:
    """Ids of domains that run no more, as far as their hypervisors can be asked. Not to be called where libvirt waits for us."""
    by_frontend = {name: {o.domain_id for o in owners if o.domain and o.frontend == name} for name in ("libvirt", "xen")}
    return libvirt_connection.not_running(by_frontend["libvirt"]) | xen.not_running(by_frontend["xen"])

"""The guests of Xen that run, by xenstore: their names, and the vifs that another script than ours, or none, has set up."""

import os
import re
from contextlib import closing, suppress

from ..errors import InputError, VmnetError
from ..kernel import sysfs
from ..model.guest import Domain, Vif
from ..records import store
from .xen_claim import CLAIMS, backend_of
from .xenstore import XenStore

_SOCKETS = ("/run/xenstored/socket", "/dev/xen/xenbus", "/proc/xen/xenbus")
_VIF = re.compile(r"vif-?(\d+)[.-](\d+)", re.ASCII)


def running() -> dict[str, Domain | InputError]:
    """See FrontEnd.running; partial domains, with the vifs alone that have no record and name no script of ours."""
    found: dict[str, Domain | InputError] = {}
    if not any(map(os.path.exists, _SOCKETS)):
        return found
    recorded = _recorded()
    # A vif without a record is rare, and a request to xenstored may cost a process.
    links = [name for name in os.listdir(sysfs.ROOT) if sysfs.read(name, "ifindex") not in recorded]
    vifs = {name: there for name in links if (there := _VIF.fullmatch(backend_of(name) or name))}
    xenstore: XenStore | None = None
    with suppress(VmnetError):
        for ifname, there in vifs.items():
            domid, devid = there.groups()
            xenstore = xenstore or XenStore()
            backend = xenstore.tree(f"backend/vif/{domid}/{devid}")
            name = xenstore.read(f"/local/domain/{domid}/name")
            if not backend or not name or _is_ours(backend.get("script", "")):
                continue
            domain = found.get(f"xen:{domid}")
            before = domain.vifs if isinstance(domain, Domain) else ()
            vif = Vif(backend.get("mac", ""), ifname, int(devid), id=devid)
            found[f"xen:{domid}"] = Domain(name, f"xen:{domid}", (*before, vif), partial=True)
    return found


def names() -> set[str]:
    """See FrontEnd.names."""
    found: set[str] = set()
    with suppress(VmnetError):
        if any(map(os.path.exists, _SOCKETS)):
            xenstore = XenStore()
            found = {name for domid in xenstore.list("/local/domain") if (name := xenstore.read(f"/local/domain/{domid}/name"))}
    return found


def _recorded() -> set[str]:
    """The numbers of the links that have a record."""
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return set()
    with closing(store.Store()) as records:
        return {str(nic.ifindex) for nic in records.nics()}


def _is_ours(script: str) -> bool:
    """Whether a script is ours: by its name vmnet-, or because the name is diverted to us."""
    name = os.path.basename(script)
    return name.removeprefix("vmnet-") in CLAIMS and (name.startswith("vmnet-") or "vmnet" in os.path.realpath(script))

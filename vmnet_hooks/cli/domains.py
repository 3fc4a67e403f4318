"""Which guests there are, for commands that are about one."""

import difflib
import os
from typing import TYPE_CHECKING

from ..errors import InputError, one_line
from ..model.guest import Domain

if TYPE_CHECKING:
    from ..engine import Session
    from ..engine.claims import Running


def require(session: "Session", name: str, running: "Running") -> None:
    """Raise InputError if no guest has that name: neither in the records, nor in domains.d, nor by its hypervisor."""
    # Not needed for completion.
    from ..declared.configuration import toml_files
    from ..frontends.running import names
    from ..model.owner import GuestOwner

    if session.records.owners(domain=name) or any(isinstance(d, Domain) and d.name == name for d in running.values()):
        return
    files = toml_files(f"{session.config.directory}/domains.d")
    known = {os.path.basename(path).removesuffix(".toml") for path in files} | names()
    if name in known:
        return
    known |= {owner.domain for owner in session.records.owners() if isinstance(owner, GuestOwner)}
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {one_line(close[0])}?" if close else "see `vmnet-hook status`, `virsh list --all`, `xl list`"
    raise InputError(f"{one_line(name)}: there is no such guest, neither set up, nor in domains.d, nor by its hypervisor; {hint}")


def nothing(session: "Session", name: str) -> bool:
    """Whether nothing is set up for a guest."""
    return bool(name) and not session.records.owners(domain=name)

"""A takeover that waits to be confirmed, as the records have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..model.owner import Owner
from ..model.resource import Resource


@dataclass(frozen=True)
class Pending:
    """A takeover that is not confirmed yet. `before` is what the records said of its owners (what they claimed, what they
    needed); `added` are the owners that were not there. `deadline` is by the clock of this boot, in seconds; with
    `needs_word` only `vmnet-hook confirm` ends it."""

    deadline: float
    needs_word: bool
    before: Mapping[Owner, tuple[Sequence[Resource], Sequence[str]]] = field(default_factory=dict)
    added: Sequence[str] = ()
    originals: Mapping[str, Resource | None] = field(default_factory=dict)

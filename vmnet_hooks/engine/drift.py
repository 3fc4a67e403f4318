"""A difference between what is set up and what shall be, or works."""

from dataclasses import dataclass
from typing import Literal

from ..model.owner import part_label
from ..model.resource import Resource

Kind = Literal[
    "missing",  # not in the kernel
    "different",  # in the kernel, with other values
    "edited",  # the configuration asks for something else than was set up
    "unwanted",  # the configuration no longer asks for it
    "unrecorded",  # carries our mark, and no record has it
    "refused",  # what the owner needs can't be derived from the configuration any more
    "gone",  # the owner is gone, its objects are not
    "arrived",  # a guest that came by live migration and was not activated
    "unannounced",  # a guest that runs and was not activated
    "not-up",  # what is declared, or what the owner stands on
    "unreached",  # the kernel sends packets from or to a guest elsewhere
    "hindered",  # what another program set keeps something of ours from working
    "unregistered",  # a name at a DNS server that is not as it shall be
    "unconfirmed",  # a takeover
    "interrupted",  # a command
]


@dataclass(frozen=True)
class Drift:
    """A difference: `owner` and `owner_id` say whose it is, `what` and `remedy` what an admin reads of it and of what `repair`
    does about it. `resource` is the object in question, where it is one: as it is wanted, else as it was found."""

    kind: Kind
    what: str
    remedy: str
    owner: str = ""
    owner_id: str = ""
    resource: Resource | None = None

    @property
    def is_of_part(self) -> bool:
        """Whether it is a declared part of the host that is not up, and not something that stands on one."""
        return self.kind == "not-up" and self.owner == part_label(self.owner_id)

    @property
    def key(self) -> str:
        """The key of the object; "" where the difference is not one object's."""
        return self.resource.key if self.resource else ""

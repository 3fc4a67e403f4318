"""How the kernel holds the objects that we set up: how each kind is read, set, removed and recognised as ours. One file a kind;
the rows of model.objects.KINDS name the files, and each is loaded when an object of its kind is met.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

from ...errors import KernelError
from ...model.objects import KINDS
from ...model.plan import Plan
from ...model.resource import Resource
from ..netlink import View

R = TypeVar("R", bound=Resource)


class Edge(Generic[R]):
    """One kind of object in the kernel. Methods raise NetlinkError, OSError or KernelError."""

    in_the_way = "something is in the way there already; remove it, or see `vmnet-hook check`"
    """Why an object can't be made where the kernel has one that excludes it, and the remedy."""
    refused: type[KernelError] = KernelError
    """What is raised then."""

    def read(self, wanted: Sequence[R], view: View) -> Iterable[R]:
        """What the kernel holds under the keys of `wanted`."""
        raise NotImplementedError

    def apply(self, step: Plan, view: View) -> None:
        """Make several changes as one transaction of the kernel's. Asked of `batched` kinds alone, in place of set and unset."""
        raise NotImplementedError

    def set(self, want: R, have: R | None, view: View) -> None:
        """Bring an object to `want`."""
        raise NotImplementedError

    def unset(self, have: R, view: View) -> None:
        """Remove an object. That it is gone already is no error, see linux.Kernel.apply."""
        raise NotImplementedError

    def ours(self, view: View) -> Iterable[R]:
        """All objects of this kind that carry a mark of ours. Asked of `marked` kinds alone."""
        raise NotImplementedError


@cache
def edge(kind: str) -> Edge[Any]:
    """The edge of a kind of resources. Its module has EDGES, by kind."""
    edges: Mapping[str, Edge[Any]] = import_module(KINDS[kind].edge).EDGES
    return edges[kind]

"""What every function of the engine works on: a configuration, a kernel and the records of one host."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..declared import SECTIONS, configuration
from ..model import facts
from ..model.declaration import Config
from ..model.objects import Adoption
from ..model.plan import Plan
from ..model.resource import Resource
from ..records.store import Store


class Kernel(Protocol):
    """What the engine needs of a kernel: kernel.linux.Kernel, or a fake one."""

    def close(self) -> None: ...
    def link(self, ifname: str) -> facts.Link | None: ...
    def has_sent(self, ifname: str) -> bool: ...
    def ports(self, ifname: str) -> list[str]: ...
    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> facts.Host: ...
    def survey(self, port: str, bridge: str) -> Adoption: ...
    def obstacle(self, port: str) -> str: ...
    def hazards(self, bridged: bool, anycast: bool, permanent: tuple[int, int]) -> list[str]: ...
    def rename(self, ifname: str, name: str) -> None: ...
    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]: ...
    def apply(self, step: Plan) -> None: ...
    def ours(self) -> dict[str, Resource]: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Session:
    """One per process and call. `kernel` and `records` are the edges; tests bring their own."""

    config: Config
    kernel: Kernel
    records: Store

    def close(self) -> None:
        self.kernel.close()
        self.records.close()


@contextmanager
def open(declared: Config | None = None) -> Iterator[Session]:
    """A session on this host with sockets and records of its own, which are closed at the end. Without `declared`, load the
    configuration. Raises VmnetError."""
    declared = declared or configuration.load(SECTIONS)
    with closing(edge()()) as kernel, closing(Store()) as records:
        yield Session(declared, kernel, records)


def edge() -> Callable[[], Kernel]:
    """Load the kernel edge, and return what opens it."""
    # It costs as much as the rest of a call, and most calls concern guests that are none of ours.
    from ..kernel import linux

    return linux.Kernel

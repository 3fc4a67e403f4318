"""Events of the host itself, as front ends report them. Plain data."""

from dataclasses import dataclass

from .declaration import Network
from .guest import Event


@dataclass(frozen=True)
class NetworkEvent(Event):
    """UP or DOWN of a network of the host that no file declares. `owner` is its ID in the records. DOWN needs no `network`."""

    owner: str
    network: Network | None = None

    @property
    def subject(self) -> str:
        return self.owner


@dataclass(frozen=True)
class PartsEvent(Event):
    """UP or DOWN of the parts of the host in `names` (KIND:NAME), which a command declares. UP stores `declared` (TOML) in the
    folder configuration.RUNTIME, in the file `owner`.toml."""

    owner: str
    names: tuple[str, ...]
    declared: str = ""

    @property
    def subject(self) -> str:
        return self.owner

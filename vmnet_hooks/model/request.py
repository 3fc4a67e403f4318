"""One call of a hook, wherever it is served: in the hook's own process, or in the agent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from .declaration import Config


def no_limit(seconds: float, late: Callable[..., Any]) -> None:
    """Nobody is interrupted here: whoever waits gives up by himself."""


@dataclass(frozen=True)
class Request:
    """What a hook was called with. `parent` is the number of the process that ran it; `declared` reads the configuration;
    `limit` calls `late`, which raises, once so many seconds have passed."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    stdin: BinaryIO
    parent: int
    declared: Callable[[], "Config"]
    limit: Callable[[float, Callable[..., Any]], None] = no_limit

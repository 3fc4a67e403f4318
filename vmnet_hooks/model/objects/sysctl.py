"""Values under /proc/sys/net."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ..resource import Resource

# Written to every device by a write to `all`, and by nothing else: see kernel/sysctl.py.
FORWARDING_GATE = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True)
class Sysctl(Resource):
    """A value under /proc/sys. `path` has slashes: an interface's name may hold dots."""

    path: str
    value: str

    kind = "sysctl"
    rank = 10
    setting = True

    @cached_property
    def key(self) -> str:
        return f"sysctl {self.path}"

    @cached_property
    def link(self) -> str:
        parts = self.path.split("/")
        return parts[3] if len(parts) == 5 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default") else ""

    @property
    def stands(self) -> bool:
        # A default route learned from advertisements comes and goes; the value was chosen by the one that was there.
        return self.path.endswith("/accept_ra")

    def set_command(self, have: Self | None) -> str:
        write = f"sysctl -qw {self.path}={self.value}"
        if self.path != FORWARDING_GATE:
            return write
        return (
            f"( cd /proc/sys/net/ipv6/conf; old=$(grep -H . */forwarding); {write}; for i in $old; do "
            "[ ${i%%:*} = all/forwarding ] || echo ${i##*:} >${i%%:*}; done )  # the gate alone: devices keep their values"
        )

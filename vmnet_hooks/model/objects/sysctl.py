"""Values under /proc/sys/net."""

from dataclasses import dataclass
from typing import Self

from ..resource import Keys, Resource, cached

# A write to this one sets every device's value too: see kernel/objects/sysctl.py.
FORWARDING_GATE = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True)
class Sysctl(Resource):
    """A value under /proc/sys. `path` has slashes, as an interface's name may hold dots."""

    path: str
    value: str

    kind = "sysctl"
    rank = 10
    setting = True

    @cached
    def key(self) -> str:
        return self.key_of(self.path)

    @staticmethod
    def key_of(path: str) -> str:
        return f"sysctl {path}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        folders = (f"net/ipv{version}/{folder}" for version in (4, 6) for folder in ("conf", "neigh"))
        return Keys(starts=tuple(cls.key_of(f"{folder}/{ifname}/") for folder in folders))

    @cached
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

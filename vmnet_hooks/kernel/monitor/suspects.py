"""What may have suffered from a change."""

from dataclasses import dataclass, field


@dataclass
class Suspects:
    """What to check.

    `keys` are keys of resources, `starts` beginnings of such keys, `links` names of links (with everything on them), `gone`
    taps that are gone, as (ifindex, ifname), `tampered` the keys of our nft tables that another process has changed,
    `addressed` ports that got an address, as (ifname, address).
    `made` names of links that are new: what failed for the lack of them can be restored.
    `everything`: the kernel dropped notifications, so that any resource may have suffered.
    """

    keys: set[str] = field(default_factory=set)
    starts: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    gone: set[tuple[int, str]] = field(default_factory=set)
    tampered: set[str] = field(default_factory=set)
    addressed: set[tuple[str, str]] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        found = (self.keys, self.starts, self.links, self.gone, self.tampered, self.addressed, self.made)
        return self.everything or any(found)

    def add(self, other: "Suspects") -> None:
        """Add what `other` has."""
        self.keys |= other.keys
        self.starts |= other.starts
        self.links |= other.links
        self.gone |= other.gone
        self.tampered |= other.tampered
        self.addressed |= other.addressed
        self.made |= other.made
        self.everything |= other.everything

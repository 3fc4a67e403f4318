"""Carries commands of stanzas over: what adds routes to `routes` of the link, what translates addresses to [nat]."""

import re
from collections.abc import Container, Iterator, Mapping
from itertools import count

from .. import values
from ..errors import ConfigError, one_line
from ..links import link
from ..model.declaration import parse_options
from . import commands
from .draft import Block, Draft, left, shown
from .interfaces import Stanza, StanzaOption

_FORWARDING = re.compile(
    r"(/sbin/)?(sysctl\b.*net\.ipv4\.ip_forward ?= ?1|echo ['\"]?1['\"]? ?> ?/proc/sys/net/ipv4/ip_forward)\W*"
)


class Commands:
    """The commands of all stanzas. `drafts` and `sections` are those of the links that vmnet-hooks makes, by name; `used` are the
    links below them."""

    def __init__(self, drafts: Mapping[str, Draft], sections: Container[str], used: Container[str]) -> None:
        self.drafts, self.sections, self.used = drafts, sections, used
        self.nats: dict[str, Draft] = {}
        self._given: list[tuple[Stanza, StanzaOption, Block]] = []
        self._made: list[Block] = []

    def add(self, stanza: Stanza, option: StanzaOption, block: Block) -> None:
        self._given.append((stanza, option, block))

    def convert(self) -> list[Block]:
        """Convert what commands add; what takes it away again, when the link goes down, follows from that. Return the NATs."""
        read: list[tuple[Stanza, StanzaOption, Block, commands.Command | None]] = []
        carried: set[tuple[str, ...]] = set()
        for stanza, option, block in self._given:
            try:
                command = commands.parse(option.value, stanza.base)
                if command and command.adds and option.name in ("up", "post-up"):
                    self._carry(command, stanza, option, block)
                    carried.add(_effect(command, stanza))
                    continue
            except ValueError as error:
                fate = self._fate(stanza, block)
                block.left.append(left(option.line, f"{error}; {fate}" if stanza.base in self.sections else fate))
                continue
            read.append((stanza, option, block, command))
        for stanza, option, block, command in read:
            if command and not command.adds and _effect(command, stanza) in carried:
                continue
            if carried and _FORWARDING.fullmatch(option.value) and any(effect[0] == "nat" for effect in carried):
                continue
            block.left.append(left(option.line, self._fate(stanza, block)))
        return self._made

    def _fate(self, stanza: Stanza, block: Block) -> str:
        """Return what becomes of a command of a stanza."""
        name = stanza.base
        if name in self.sections:
            return "it ends with the stanza; let a unit that comes after vmnet-networks.service run it"
        # The stanza is left alone, for one reason.
        return block.left[0].why if block.left and name not in self.used else f"it stays with ifupdown, like {shown(name)}"

    def _carry(self, command: commands.Command, stanza: Stanza, option: StanzaOption, block: Block) -> None:
        """Convert a command that adds a route or a translation. Raise ValueError if it can't be carried over."""
        if isinstance(command, commands.NatCommand):
            name = next(name for name in _numbered(stanza.base) if name not in self.nats)
            nat = self.nats[name] = Draft("nat", name, headers=[option.source])
            for key, value in command.nat.items():
                nat.set(key, value, *option.source)
            made = Block(nat)
            if stanza.base not in self.sections:
                made.notes.append(f"in place of {option.line.where}: remove that line, and what takes it back")
            self._made.append(made)
            return
        name = command.dev or stanza.base
        draft = self.drafts.get(name)
        if draft is None:
            raise ValueError(f"{shown(name)} is not a link that vmnet-hooks makes")
        route = dict(command.route)
        row = next(row for row in link.OPTIONS if row.name == "routes")
        try:
            parsed = row.parse(parse_options(row.keys, route, "routes"))
        except ConfigError as error:
            raise ValueError(one_line(error)) from None
        via = parsed.route.via
        if via and not parsed.onlink and not reaches(draft, values.address(via)):
            raise ValueError(f"gateway {via} is in no subnet of {shown(name)}")
        if route not in draft.options.setdefault("routes", []):
            draft.options["routes"].append(route)
        draft.sources.setdefault("routes", []).append(option.source)


def reaches(draft: Draft, gateway: values.IPAddress) -> bool:
    """Return whether a gateway is on a link, as far as its draft tells. Raise ValueError for a draft that is not valid."""
    own = link.interfaces(draft.options.get("addresses", []))
    tables = draft.options.get("routes", ())
    direct = [values.subnet(route["to"]) for route in tables if "via" not in route and route["to"] != "default"]
    return link.is_on_link(gateway, own, direct)


def _effect(command: commands.Command, stanza: Stanza) -> tuple[str, ...]:
    """Return what identifies that which a command adds or deletes."""
    if isinstance(command, commands.NatCommand):
        return ("nat", command.nat["subnet"], command.nat["out"])
    return ("route", command.dev or stanza.base, command.route["to"], str(command.route.get("table", "")))


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))

"""The results of an import: drafts of parts, and lines that could not be carried over; both are printed as TOML.

If the configuration would refuse a draft, the option at fault is removed and its line becomes a comment. So the output is always
a configuration that `vmnet-hook validate` accepts.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from ..declared import SECTIONS, implied
from ..declared.configuration import MAX_BYTES, check_together, load
from ..errors import ConfigError, InputError, VmnetError, one_line
from ..model.declaration import Config, Declared, Network, Option, Refusal
from ..values import ranges
from .interfaces import Line

LISTED = 3
"""Lines of one stanza, and for one reason, that a comment repeats; of more, the first."""

_NUMBERED = re.compile(r":([0-9]+)$", re.ASCII)
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Left:
    """A line or a kernel object that was not carried over: its place, its text, and the reason."""

    where: str
    text: str
    why: str

    @property
    def shown(self) -> str:
        text = one_line(self.text)
        return f"`{text if len(text) <= 200 else text[:200] + ' …'}`"


def left(line: Line, why: str) -> Left:
    return Left(line.where, line.text, why)


def shown(text: object) -> str:
    """Return a name or value as it is shown in a reason."""
    return one_line(text)[:40]


@dataclass(eq=False)
class Draft:
    """A draft of a part. `options` are in TOML's types. `sources` are the (where, text) pairs that each option was made of,
    `headers` those of the part as a whole."""

    section: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)

    def set(self, option: str, value: object, where: str, text: str) -> None:
        self.options[option] = value
        self.sources.setdefault(option, []).append((where, text))

    def drop(self, option: str, why: str) -> list[Left]:
        """Remove an option; return the sources that it was made of."""
        del self.options[option]
        return [Left(where, text, why) for where, text in self.sources.pop(option, [])]


@dataclass(eq=False)
class Block:
    """The result of one stanza or one link."""

    draft: Draft | None = None
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Refused(ConfigError):
    """The configuration refuses a draft. `option` is the option at fault; "" means the draft as a whole."""

    def __init__(self, draft: Draft, option: str, problem: str) -> None:
        super().__init__(problem)
        self.draft, self.option = draft, re.split(r"[.\[]", option)[0]


def settle(blocks: Sequence[Block]) -> None:
    """Remove from the drafts what the configuration refuses: first from each alone, then from all together."""
    for block in blocks:
        while block.draft:
            try:
                _part(block.draft)
                break
            except Refused as refused:
                _take_out(block, refused)
    while True:
        try:
            return _check_together([block.draft for block in blocks if block.draft])
        except Refused as refused:
            _take_out(next(block for block in blocks if block.draft is refused.draft), refused)


def _take_out(block: Block, refused: Refused) -> None:
    draft, option, why = refused.draft, refused.option, one_line(refused)
    if option in draft.options and not _required(draft, option):
        block.left += draft.drop(option, why)
        return
    rest = [left for option in list(draft.options) for left in draft.drop(option, why)]
    headers = [Left(where, text, why) for where, text in draft.headers]
    # The sources of a VLAN device's options may include the first line of its stanza, which is a header too.
    block.left += {(left.where, left.text): left for left in [*headers, *rest]}.values()
    block.draft = None


def _rows(draft: Draft) -> Sequence[Option]:
    return SECTIONS[draft.section].rows(draft.options, draft.name)


def _required(draft: Draft, option: str) -> bool:
    return any(row.name == option and row.required for row in _rows(draft))


def _part(draft: Draft) -> Declared:
    """Return the part as configuration.load would. Raise Refused if it would not accept it."""
    kind = SECTIONS[draft.section]
    try:
        kind.parse_name(draft.name)
    except ValueError as error:
        raise Refused(draft, "", f"{one_line(repr(draft.name))[:80]} {error}") from None
    options = {}
    for row in _rows(draft):
        if row.name not in draft.options and row.required:
            raise Refused(draft, "", f"{row.name} is missing; {row.doc}")
        value = draft.options.get(row.name)
        try:
            options[row.name] = row.default if value is None else _parsed(row, value)
        except ValueError as error:
            raise Refused(draft, row.name, f"{one_line(repr(value))[:80]} {error}") from None
    part = kind.declare(draft.name, options, "")
    try:
        part.check()
    except Refusal as refusal:
        raise Refused(draft, refusal.option, refusal.problem) from None
    return part


def _check_together(drafts: Iterable[Draft]) -> None:
    parts: dict[str, Declared] = {}
    made_of: dict[str, Draft] = {}
    for draft in drafts:
        part = _part(draft)
        if part.id in parts:
            raise Refused(draft, "", f"{part.id} is declared already")
        parts[part.id], made_of[part.id] = part, draft
    networks = {part.name: part for part in parts.values() if isinstance(part, Network)}
    others = {key: part for key, part in parts.items() if not isinstance(part, Network)}
    for network in networks.values():
        for part in implied(network):
            others.setdefault(part.id, part)
            made_of.setdefault(part.id, made_of[network.id])
    declared = Config(networks, "", others)
    try:
        check_together(declared)
    except Refusal as refusal:
        raise Refused(made_of[refusal.part.id], refusal.option, refusal.problem) from None


def _parsed(row: Option, value: Any) -> Any:
    if not row.keys:
        return row.parse(value)
    if row.listed:
        return tuple(_table_of(row, item) for item in value)
    return _table_of(row, value)


def _table_of(row: Option, value: Any) -> Any:
    return row.parse({key.name: _parsed(key, value[key.name]) if key.name in value else key.default for key in row.keys})


def toml(header: Sequence[str], blocks: Iterable[Block]) -> str:
    """Return the text of a configuration file. Raise VmnetError if `vmnet-hook validate` would not accept it."""
    paragraphs = ["\n".join(f"# {line}" for line in header)]
    alone = False
    for block in blocks:
        comments = _comments(block.left)
        if block.notes and not block.draft:
            paragraphs.append("\n".join(f"# {note}" for note in block.notes))
        if block.draft:
            paragraphs.append("\n".join([*(f"# {note}" for note in block.notes), *_table(block.draft), *comments]))
        elif comments and alone:
            paragraphs[-1] = "\n".join([paragraphs[-1], *comments])
        elif comments:
            paragraphs.append("\n".join(comments))
        alone = bool(comments) and not block.draft
    text = "\n\n".join(paragraphs) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise InputError(
            f"what comes out is larger than {MAX_BYTES >> 20} MiB, as no configuration file may be; import it in parts"
        )
    with tempfile.TemporaryDirectory(prefix="vmnet-hook-import-") as folder:
        with open(f"{folder}/vmnet.toml", "w") as file:
            file.write(text)
        try:
            load(folder)
        except ConfigError as error:
            raise VmnetError(f"internal error: what was imported is not valid: {error}; please report it") from None
    return text


def _comments(left: Iterable[Left]) -> list[str]:
    """Return one comment for each reason; what has no place that could be looked up has one of its own."""
    reasons: dict[tuple[str, str], list[Left]] = {}
    for item in left:
        reasons.setdefault((item.why, "" if _NUMBERED.search(item.where) else item.text), []).append(item)
    return [_comment(items) for items in reasons.values()]


def _comment(items: Sequence[Left]) -> str:
    first, *others = items
    shown = [item.shown for item in items] if len(items) <= LISTED else [first.shown, f"{len(others)} more"]
    what = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return f"# {_places(items)}: {what} {'are' if others else 'is'} not carried over: {first.why}"


def _places(items: Iterable[Left]) -> str:
    """Return the places of lines: those of one file as FILE:2,4-6."""
    files: dict[str, set[int]] = {}
    for item in items:
        found = _NUMBERED.search(item.where)
        files.setdefault(item.where[: found.start()] if found else item.where, set()).update([int(found[1])] if found else [])
    return ", ".join(one_line(file) + (f":{ranges(numbers)}" if numbers else "") for file, numbers in files.items())


def _table(draft: Draft) -> list[str]:
    order = [row.name for row in _rows(draft)]
    rows = sorted(draft.options.items(), key=lambda row: order.index(row[0]))
    return [f"[{draft.section}.{_key(draft.name)}]", *(f"{key} = {toml_value(value)}" for key, value in rows)]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def toml_value(value: Any) -> str:
    """Return a value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping() if not value:
            return "{}"
        case Mapping():
            return f"{{ {', '.join(f'{_key(key)} = {toml_value(inner)}' for key, inner in value.items())} }}"
        case IPv4Address() | IPv4Interface() | IPv4Network() | IPv6Address() | IPv6Interface() | IPv6Network():
            return json.dumps(str(value))
    return json.dumps(value)

"""The grammar of interfaces(5), as ifupdown 0.8 reads it: stanzas, continued lines, `source`, `inherits`; and what ifupdown2 has
besides: stanzas without a family, and stanzas with options of both families."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import InputError, one_line
from .option_values import WHITE, split

MAX_BYTES = 4 << 20
MAX_FILES = 1000
"""Files in total. A configuration with more probably sources itself in a way that the check for loops does not see."""

MAX_DEPTH = 50

FAMILIES = {
    "inet": ("loopback", "static", "manual", "dhcp", "bootp", "tunnel", "ppp", "wvdial", "ipv4ll"),
    "inet6": ("loopback", "static", "manual", "dhcp", "auto", "v4tunnel", "6to4"),
    "ipx": ("static", "dynamic"),
    "can": ("static",),
    "link": ("loopback", "static", "manual", "dhcp"),
}
_WORDS = frozenset(("iface", "auto", "mapping", "source", "source-directory", "no-auto-down", "no-scripts", "rename"))
# The file names that ifupdown's `source-directory` reads; it ignores others.
_SOURCED = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True)
class Line:
    """A line of a file, joined with its continuation lines."""

    path: str
    number: int
    text: str

    @property
    def words(self) -> list[str]:
        return split(self.text)

    @property
    def where(self) -> str:
        return f"{self.path}:{self.number}"

    def error(self, problem: str) -> InputError:
        return InputError(f"{one_line(self.path)}:{self.number}: {problem}")


@dataclass(frozen=True)
class StanzaOption:
    """An option of a stanza. `name` has `-` for `_` (`bridge_ports` becomes `bridge-ports`): ifup exports both alike."""

    name: str
    value: str
    line: Line

    @property
    def source(self) -> tuple[str, str]:
        """Where it stands, and the line."""
        return self.line.where, self.line.text


@dataclass(eq=False)
class Stanza:
    """`iface NAME FAMILY METHOD` and its options, beginning with those that it inherits from `template`. Family and method are ""
    where ifupdown2 goes by the options alone."""

    line: Line
    name: str
    family: str
    method: str
    options: list[StanzaOption]
    template: "Stanza | None" = None

    @property
    def base(self) -> str:
        """The interface: eth0 for the alias eth0:1."""
        return base(self.name)


@dataclass(frozen=True, eq=False)
class Statement:
    """Any other line: `auto`, `allow-hotplug`, `mapping`, the lines of a mapping. `keyword` is the first word."""

    line: Line
    keyword: str
    names: tuple[str, ...] = ()


Item = Stanza | Statement


def read(path: str) -> list[Item]:
    """Return the statements of a file and of the files that it sources, in order. Raise InputError where ifup would fail."""
    return _Reader().file(path, ())


class _Reader:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.files = 0

    def file(self, path: str, trail: tuple[str, ...]) -> list[Item]:
        self.files += 1
        if self.files > MAX_FILES or len(trail) > MAX_DEPTH:
            raise InputError(f"{one_line(path)}: more than {MAX_FILES} files, or {MAX_DEPTH} deep; does one source itself?")
        trail = (*trail, os.path.realpath(path))
        inside = ""
        for line in _lines(path):
            words = line.words
            keyword = words[0]
            if keyword in _WORDS or keyword.startswith("allow-"):
                inside = keyword if keyword in ("iface", "mapping") else ""
            if keyword == "iface":
                self.items.append(self._stanza(line))
            elif keyword in ("source", "source-directory"):
                self._source(line, trail)
            elif keyword in _WORDS or keyword.startswith("allow-"):
                self.items.append(Statement(line, keyword, tuple(words[1:])))
            elif inside == "iface":
                self._option(line)
            elif inside == "mapping" and keyword in ("script", "map"):
                self.items.append(Statement(line, keyword))
            else:
                raise line.error(f"{_quoted(keyword)} stands in no stanza; is it a file of interfaces(5)?")
        return self.items

    def _stanza(self, line: Line) -> Stanza:
        words = line.words[1:]
        if not words:
            raise line.error("iface without a name; write: iface NAME inet|inet6 METHOD")
        name, rest = words[0], words[1:]
        heir = rest.index("inherits") if "inherits" in rest else len(rest)
        inherited = rest[heir + 1 : heir + 2]
        family = rest[0] if heir > 0 else ""
        method = rest[1] if heir > 1 else ""
        template = None
        if heir < len(rest):
            found = [
                item
                for item in self.items
                if isinstance(item, Stanza) and [item.name] == inherited and family in ("", item.family)
            ]
            if not found:
                raise line.error(f"inherits from {_quoted(' '.join(inherited))}, which no stanza above it declares")
            template = found[0]
            family, method = family or template.family, method or template.method
        if words[1:] == []:
            return Stanza(line, name, "", "", [])
        if family not in FAMILIES:
            raise line.error(f"{_quoted(family)} is no address family; write: iface {one_line(name)[:40]} inet|inet6 METHOD")
        if method not in FAMILIES[family]:
            known = ", ".join(FAMILIES[family])
            raise line.error(f"{_quoted(method)} is no method of {family}; use one of {known}")
        return Stanza(line, name, family, method, list(template.options) if template else [], template)

    def _option(self, line: Line) -> None:
        name = line.words[0]
        value = line.text[len(name) :].strip(WHITE)
        if not value:
            raise line.error(f"{_quoted(name)} has no value; write one, or remove the line")
        stanza = self.items[-1]
        assert isinstance(stanza, Stanza)
        stanza.options.append(StanzaOption(name.replace("_", "-"), value, line))

    def _source(self, line: Line, trail: tuple[str, ...]) -> None:
        keyword, *patterns = line.words
        for pattern in patterns:
            where = os.path.join(os.path.dirname(line.path), pattern)
            paths = sorted(glob.glob(where))
            if keyword == "source-directory":
                paths = [path for folder in paths for path in _folder(folder, line)]
            elif not paths and not glob.has_magic(where):
                # ifup ignores a missing file.
                self.items.append(Statement(line, keyword, (pattern,)))
            for path in paths:
                if os.path.realpath(path) in trail:
                    raise line.error(f"sources {one_line(path)}, which leads back here; remove the loop")
                if os.path.isfile(path):
                    self.file(path, trail)


def _folder(path: str, line: Line) -> list[str]:
    try:
        return [f"{path}/{name}" for name in sorted(os.listdir(path)) if _SOURCED.fullmatch(name)]
    except OSError as error:
        raise line.error(f"{one_line(path)}: {error.strerror}; is it a folder?") from None


def _lines(path: str) -> Iterator[Line]:
    """Yield the lines of a file without empty lines and comments, joined with their continuation lines. Raise InputError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{one_line(path)}: {error.strerror}; name another file with --interfaces") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{one_line(path)}: larger than {MAX_BYTES >> 20} MiB; is it a file of interfaces(5)?")
    if b"\0" in data:
        raise InputError(f"{one_line(path)}: holds NUL bytes; is it a file of interfaces(5)?")
    # Comments may have any encoding.
    rows = data.decode(errors="backslashreplace").split("\n")
    number = 0
    while number < len(rows):
        first, text = number + 1, rows[number].lstrip(WHITE)
        number += 1
        if not text.strip(WHITE) or text.startswith("#"):
            continue
        while text.endswith("\\") and number < len(rows):
            text = text[:-1] + rows[number]
            number += 1
        if text.strip(WHITE):
            yield Line(path, first, text.strip(WHITE))


def _quoted(text: str) -> str:
    return one_line(repr(text))[:80]


_OF_ADDRESS = ("netmask", "broadcast", "network", "scope", "pointopoint", "metric")
_OF_BOTH = ("ip-routing-table", "ip-forwarding")


def by_family(stanza: Stanza) -> list[Stanza]:
    """Return one stanza for each family of a stanza that ifupdown2 reads; any other alone. An option that belongs to an address
    follows it."""
    if stanza.family not in ("", "inet"):
        return [stanza]
    six: list[StanzaOption] = []
    address: StanzaOption | None = None
    for option in stanza.options:
        if option.name == "address":
            address = option
        is_six = ":" in option.value and option.name in ("address", "gateway", "ip-routes", "ip-gateway")
        # The netmask of an IPv6 address.
        is_six = is_six or (option.name in _OF_ADDRESS and address is not None and address in six)
        if is_six or option.name == "ip-proxy-ndp":
            six.append(option)
    four = [option for option in stanza.options if option not in six]
    alone = stanza.family and not any(option.name in ("address", "ip-routes") for option in four)
    if alone or not any(":" in option.value for option in six):
        return [replace(stanza, family="inet", method=stanza.method or _method(stanza.options))]
    routed = [option for option in stanza.options if option.name in _OF_BOTH and any(o.name == "ip-routes" for o in six)]
    if routed and not any(option.name == "ip-routes" for option in four):
        four = [option for option in four if option not in routed]
    return [
        replace(stanza, family="inet", method=stanza.method or _method(four), options=four),
        replace(stanza, family="inet6", method="static" if _method(six) == "static" else "manual", options=[*routed, *six]),
    ]


def _method(options: Sequence[StanzaOption]) -> str:
    return "static" if any(option.name == "address" for option in options) else "manual"


def base(name: str) -> str:
    """Return the interface of an alias: eth0 for eth0:1."""
    return name.partition(":")[0]


def names(items: Sequence[Item], keywords: Sequence[str]) -> set[str]:
    """Return the interfaces that statements such as `auto` name. `auto eth0=office` names eth0."""
    return {
        name.partition("=")[0]
        for item in items
        if isinstance(item, Statement) and any(item.keyword == k or item.keyword.startswith(k + "-") for k in keywords)
        for name in item.names
    }

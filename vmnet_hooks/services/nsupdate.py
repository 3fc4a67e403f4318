"""How names are told to a DNS server: the input of nsupdate(1), the TSIG key in it, and what is read of the output. Text in, text
out.

Every name that we register has a mark beside it, a TXT record at _vmnet.NAME that names this host's agent. An update is made only
if the server finds what its prerequisites say (RFC 2136, 2.4): a name that another program, or another guest, has is neither
taken over nor removed.
"""

import base64
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import values
from ..errors import one_line
from .ddns import Place, Registration

Record = tuple[str, str]
"""A type and a value."""

LABEL = "_vmnet"
ALGORITHMS = ("hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")

PREREQUISITES = ("YXDOMAIN", "YXRRSET", "NXRRSET", "NXDOMAIN")
"""The answers of a server that has found something else than the prerequisites say."""

_TOKEN = re.compile(r'"([^"\n]*)"|/\*.*?\*/|//[^\n]*|#[^\n]*|([{};])|([^\s{};"]+)', re.DOTALL)
_MARK = re.compile(r"[0-9a-f]{16}", re.ASCII)
_STATUS = re.compile(r"^;; ->>HEADER<<- opcode: UPDATE, status: ([A-Z0-9]+),", re.MULTILINE)
_COMPLAINT = re.compile(r"^(?:; )?(update failed: .*|TSIG error .*|Communication .*|.*timed out.*|could not .*)$", re.MULTILINE)


class Key(NamedTuple):
    """A TSIG key. It must not be printed."""

    name: str
    algorithm: str
    secret: str

    def __repr__(self) -> str:
        return f"Key({self.name})"


def key_of(text: str) -> Key:
    """Parse a file as tsig-keygen(8) writes it: one statement `key NAME { algorithm …; secret …; };`. Raise ValueError, which
    does not quote it."""
    words = [found for groups in _TOKEN.findall(text) if (found := "".join(groups))]
    settings = dict(zip(words[3:9:3], words[4:9:3], strict=False))
    rest = [word for word in words if word not in ("{", "}", ";")]
    is_one = words[:1] == ["key"] and words[2:3] == ["{"] and len(rest) == 6 and settings.keys() == {"algorithm", "secret"}
    if not is_one:
        raise ValueError("holds no TSIG key; make one with: tsig-keygen NAME")
    try:
        name = values.domain(words[1]).lower()
        base64.b64decode(settings["secret"], validate=True)
    except ValueError:
        raise ValueError("has a name or a secret that is not valid; make a key with: tsig-keygen NAME") from None
    algorithm = settings["algorithm"].lower().removesuffix(".sig-alg.reg.int")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"is of an unknown algorithm; use one of {', '.join(ALGORITHMS)}")
    return Key(name, algorithm, settings["secret"])


# --- updates -------------------------------------------------------------------------------------------------------------


def additions(wanted: Registration, there: Sequence[Record], mark: str, key: Key) -> list[str]:
    """Return the updates that register a name, of which the first that the server's state allows is to be made: the name is ours,
    and has what is in `there` of us; it has nothing at all; it has exactly these records, and the mark of another host, from
    which the guest has come."""
    place = wanted.place
    at, marked = _name(place.name), _name(f"{LABEL}.{place.name}")
    known = list(dict.fromkeys((*there, *wanted.records)))
    updates = [
        *_deleted(at, known),
        f"update delete {marked} TXT",
        *(f"update add {at} {_ttl(wanted.ttl)} {_record(record)}" for record in wanted.records),
        f"update add {marked} {_ttl(wanted.ttl)} TXT {_text(mark)}",
    ]
    kinds = ("PTR",) if any(kind == "PTR" for kind, _ in wanted.records) else ("A", "AAAA")
    lacking = [kind for kind in kinds if kind not in [there for there, _ in wanted.records]]
    is_moved = [
        f"prereq yxrrset {marked} TXT",
        *(f"prereq yxrrset {at} {_record(record)}" for record in wanted.records),
        *(f"prereq nxrrset {at} {kind}" for kind in lacking),
    ]
    mine, free = [f"prereq yxrrset {marked} TXT {_text(mark)}"], [f"prereq nxdomain {at}"]
    order = (mine, free, is_moved) if there else (free, mine, is_moved)
    return [_update(place, key, [*prerequisites, *updates]) for prerequisites in order]


def removal(place: Place, there: Sequence[Record], mark: str, key: Key) -> str:
    """Return the update that removes what we have registered at a name, if it has our mark."""
    at, marked = _name(place.name), _name(f"{LABEL}.{place.name}")
    lines = [f"prereq yxrrset {marked} TXT {_text(mark)}", *_deleted(at, there), f"update delete {marked} TXT"]
    return _update(place, key, lines)


def _update(place: Place, key: Key, lines: Iterable[str]) -> str:
    address, _, port = place.server.partition("#")
    begin = (
        f"server {ipaddress.ip_address(address)} {int(port)}",
        f"zone {_name(place.zone)}",
        f"key {key.algorithm}:{_name(key.name)} {key.secret}",
    )
    return "\n".join((*begin, *lines, "send", "answer", ""))


def _deleted(at: str, records: Iterable[Record]) -> list[str]:
    return [f"update delete {at} {_record(record)}" for record in records]


def _name(text: str) -> str:
    return f"{values.domain(text).lower()}."


def _ttl(seconds: int) -> str:
    return str(int(seconds))


def _record(record: Record) -> str:
    kind, value = record
    if kind == "PTR":
        return f"PTR {_name(value)}"
    if (kind, ipaddress.ip_address(value).version) not in (("A", 4), ("AAAA", 6)):
        raise ValueError(f"{kind} is no type of {value}")
    return f"{kind} {ipaddress.ip_address(value)}"


def _text(mark: str) -> str:
    if not _MARK.fullmatch(mark):
        raise ValueError("is no mark")
    return f"vmnet-hooks:{mark}"


# --- answers -------------------------------------------------------------------------------------------------------------


def status(output: str) -> str:
    """Return the status of the server's answer (RFC 2136, 2.2), NOERROR if the update was made; "" if it is not known whether it
    was. An answer that is not signed as it should be counts as none."""
    found = _STATUS.search(output)
    complaints = _COMPLAINT.findall(output)
    if found and (found[1] != "NOERROR" or not complaints):
        return found[1]
    return ""


def words(output: str) -> str:
    """Return what the server, or nsupdate, says of an update that was not made, in one line."""
    found = _COMPLAINT.findall(output)
    updates = [line.removeprefix("update failed: ") for line in found if line.startswith("update failed: ")]
    said = updates or [line[:1].lower() + line[1:] for line in found] or output.split("\n")[:1]
    return one_line(said[-1].strip())[:200] or "nsupdate says nothing"

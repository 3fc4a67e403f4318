"""Files of our own that hold names. A file is ours by its place, its name and what it says; others are not touched."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import KernelError
from ...model.objects import HostName, TableName
from ..netlink import View
from . import Edge


class TableNames(Edge[TableName]):
    def read(self, wanted: Sequence[TableName], view: View) -> Iterable[TableName]:
        return [want for want in wanted if (want.table, want.name) in _rows(want.path)]

    def set(self, want: TableName, have: TableName | None, view: View) -> None:
        if _is_foreign(want.path):
            raise KernelError(f"{want.path} is not ours; remove or rename it, or choose another table_name")
        _write(want)

    def unset(self, have: TableName, view: View) -> None:
        if content(have.path) in ("", have.text):
            _remove(have.path)

    def ours(self, view: View) -> Iterator[TableName]:
        paths = (f"{TableName.DIRECTORY}/{file}" for file in files(TableName.DIRECTORY))
        yield from filter(None, map(_table_name, paths))


class HostNames(Edge[HostName]):
    def read(self, wanted: Sequence[HostName], view: View) -> Iterable[HostName]:
        return [_host_name(want.ifname, text, want.network) for want in wanted if (text := content(want.path)) is not None]

    def set(self, want: HostName, have: HostName | None, view: View) -> None:
        _write(want)

    def unset(self, have: HostName, view: View) -> None:
        _remove(have.path)

    def ours(self, view: View) -> Iterator[HostName]:
        # The folders are ours alone.
        for network in ("", *files(HostName.OF_NETWORKS)):
            folder = HostName("", "", (), network).folder
            for file in files(folder):
                if (text := content(f"{folder}/{file}")) is not None:
                    yield _host_name(file, text, network)


def _rows(path: str) -> Iterator[tuple[int, str]]:
    """Yield the numbers and names in a file, as iproute2 reads it. An admin's own file that has the name serves as well."""
    for line in (content(path) or "").splitlines():
        words = line.partition("#")[0].split()
        try:
            yield int(words[0], 0), words[1]
        except (ValueError, IndexError):
            continue


def _table_name(path: str) -> TableName | None:
    """What a file says, if it is as we write it: one line, NUMBER NAME, in the file of that name."""
    text = content(path) or ""
    number, _, name = text.strip().partition(" ")
    if not (number.isascii() and number.isdecimal()):
        return None
    found = TableName(int(number), name)
    return found if (found.path, found.text) == (path, text) else None


def _is_foreign(path: str) -> bool:
    """Whether another wrote a file. An empty one is ours: a process was killed before it had written."""
    return bool(content(path)) and _table_name(path) is None


def _host_name(ifname: str, text: str, network: str) -> HostName:
    rows = [line.split() for line in text.splitlines()]
    names = {row[1] for row in rows if len(row) == 2}
    return HostName(ifname, ",".join(sorted(names)), tuple(row[0] for row in rows if row), network)


def files(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def content(path: str) -> str | None:
    """What a file holds; None if there is no such file."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _write(name: TableName | HostName) -> None:
    folder = os.path.dirname(name.path)
    os.makedirs(folder, exist_ok=True)
    with open(name.path, "w") as file:
        file.write(name.text)
    # Others read them: iproute2 for all users, dnsmasq. Our umask is our caller's.
    for path, bits in ((folder, 0o755), (name.path, 0o644)):
        os.chmod(path, bits)


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


EDGES: Mapping[str, Edge] = {TableName.kind: TableNames(), HostName.kind: HostNames()}

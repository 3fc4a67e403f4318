"""The servers of networks: their files in /run, and their processes."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ...model.objects.dnsmasq import Dnsmasq
from .. import dnsmasq
from ..netlink import View
from . import Edge
from .names import content, files


class Servers(Edge[Dnsmasq]):
    def read(self, wanted: Sequence[Dnsmasq], view: View) -> Iterable[Dnsmasq]:
        return [have for want in wanted if (have := _read(want)) is not None]

    def set(self, want: Dnsmasq, have: Dnsmasq | None, view: View) -> None:
        name = want.name
        os.makedirs(want.names_of(name), exist_ok=True)
        for folder in (want.DIRECTORY, os.path.dirname(want.names_of(name)), want.names_of(name)):
            # Our umask is our caller's.
            os.chmod(folder, 0o755)
        conf, hosts = want.conf_of(name), want.hosts_of(name)
        # A server that is older than its configuration is started again.
        changed = content(conf) != want.conf
        if changed:
            _write(f"{conf}.new", want.conf)
            try:
                dnsmasq.test(f"{conf}.new")
            except BaseException:
                os.unlink(f"{conf}.new")
                raise
        _write(f"{hosts}.new", want.hosts)
        for path in (hosts, conf) if changed else (hosts,):
            os.replace(f"{path}.new", path)
        if not want.runs:
            dnsmasq.stop(want)
        elif have and have.runs and have.conf == want.conf and have.unit == want.unit:
            dnsmasq.reload(want)
        else:
            if have and have.unit and not want.unit:
                dnsmasq.stop(have)
            # The clock may have been set back since.
            os.utime(conf)
            dnsmasq.start(want)

    def unset(self, have: Dnsmasq, view: View) -> None:
        dnsmasq.stop(have)
        if not have.keep:
            dnsmasq.forget_leases(have)
        with suppress(OSError):
            # The names of guests that run go with the guests.
            os.rmdir(have.names_of(have.name))
        for path in (have.hosts_of(have.name), have.conf_of(have.name)):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def ours(self, view: View) -> Iterator[Dnsmasq]:
        for file in files(Dnsmasq.DIRECTORY):
            name, dot, suffix = file.rpartition(".")
            if dot and suffix == "conf" and (have := _read(Dnsmasq(name, "", unit=dnsmasq.units()))):
                yield have


def _read(want: Dnsmasq) -> Dnsmasq | None:
    conf, runs = content(want.conf_of(want.name)), dnsmasq.serves(want.name)
    if conf is None and not dnsmasq.running(want.name):
        return None
    return replace(want, conf=conf or "", hosts=content(want.hosts_of(want.name)) or "", runs=runs)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
    # The server is not root.
    os.chmod(path, 0o644)


EDGES: Mapping[str, Edge] = {Dnsmasq.kind: Servers()}

"""Routes and policy rules in rtnetlink's words."""

import errno
from _socket import AF_INET, AF_INET6
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...model.objects import Route, Rule
from ...model.resource import MAIN_TABLE, PROTO
from .. import wire
from ..netlink import NetlinkError, View
from . import Edge

_FAMILY = {4: AF_INET, 6: AF_INET6}
_KERNEL, _BOOT, _STATIC = 2, 3, 4
"""Protocols of routes, RTPROT_*."""

Dumps = dict[tuple[int, int, str, int], dict[str, Route]]
"""Routes by key, of dumps by family, table, device and protocol."""


class Routes(Edge[Route]):
    in_the_way = "the host has another such route; remove that one, or `gateway` or the route from the declaration"

    def read(self, wanted: Sequence[Route], view: View) -> Iterable[Route]:
        dumps: Dumps = {}
        # Only on its device: the kernel refuses a second route of the same key, whatever its device. It has no routes through a
        # link that is down.
        there = [(want, link) for want in wanted if (link := view.link(want.dev)) and link.flags & wire.UP]
        # A dump takes longer with every route in the table, a look-up does not; but a look-up may miss a route.
        questions = {want.key: question for want, _ in there if (question := _question(want, view))}
        met = dict(zip(questions, view.netlink.lookups(questions.values()), strict=True))
        return [have for want, link in there if (have := self._read(want, link, met.get(want.key), view, dumps))]

    def _read(self, want: Route, link: wire.LinkMessage, met: wire.RouteMessage | None, view: View, dumps: Dumps) -> Route | None:
        """A route, which may be the one that was met."""
        if met and (met.table, met.dst, met.oif, met.metric) == (want.table, want.dst, link.index, want.priority):
            return _route(met, want.dev)
        length = "/128" if want.family == 6 else "/32"
        is_host = want.dst.endswith(length)
        if is_host and met and met.table == want.table and not met.dst.endswith(length) and link.flags & wire.LOWER_UP:
            # The kernel searched the table, and found no route to this address alone.
            return None
        # A router may hold a million routes in the main table: only those are dumped that we made, and those of the protocols
        # that may have put a subnet of ours there.
        for proto in (PROTO, _KERNEL, _BOOT, _STATIC) if want.table == MAIN_TABLE else (0,):
            key = (want.family, want.table, want.dev, proto)
            if key not in dumps:
                found = view.netlink.dump_routes((_FAMILY[want.family], want.table, link.index, proto))
                dumps[key] = {made.key: made for route in found for made in (_route(route, want.dev),)}
            if have := dumps[key].get(want.key):
                return have
        return None

    def set(self, want: Route, have: Route | None, view: View) -> None:
        try:
            view.netlink.set_route(_encoded(want, view), replace=have is not None)
        except NetlinkError as error:
            if not have or error.code != errno.EEXIST:
                raise
            # With an address, the kernel makes its route, beside one of ours to the same subnet.
            view.netlink.delete_route(_encoded(have, view))

    def unset(self, have: Route, view: View) -> None:
        view.netlink.delete_route(_encoded(have, view))

    def ours(self, view: View) -> Iterator[Route]:
        names: dict[int, str] = {}
        for family in _FAMILY.values():
            for route in view.netlink.routes(family, proto=PROTO):
                dev = names.get(route.oif) or names.setdefault(route.oif, view.netlink.name(route.oif))
                yield _route(route, dev)


def _question(want: Route, view: View) -> tuple[str, str] | None:
    """What to ask the kernel for: the route to the first address of a destination, and from which source, where that may be the
    wanted one."""
    address, _, length = want.dst.partition("/")
    if length != "0":
        # The rules for the guests' table come before the main table's.
        return (address, "") if want.table != MAIN_TABLE or length in ("32", "128") else None
    rules = view.rules(_FAMILY[want.family])
    source = next((rule.subnet for rule in rules if rule.selector == "from" and rule.table == want.table), "")
    # For IPv4 the kernel takes only addresses of the host as a source.
    return (address, source.partition("/")[0]) if source and want.family == 6 else None


def _route(found: wire.RouteMessage, dev: str) -> Route:
    metric = Route.declared_metric(found.metric, ":" in found.dst)
    return Route(found.table, found.dst, dev, found.via, found.proto, found.src, metric, found.mtu)


def _encoded(route: Route, view: View) -> wire.RouteMessage:
    index = view.netlink.index(route.dev)
    return wire.RouteMessage(route.table, route.dst, index, route.via, route.proto, route.src, route.priority, route.mtu)


class Rules(Edge[Rule]):
    def read(self, wanted: Sequence[Rule], view: View) -> Iterable[Rule]:
        found: dict[str, Rule] = {}
        for family in dict.fromkeys(want.family for want in wanted):
            found.update((rule.key, rule) for rule in _rules(family, view))
        return [found[want.key] for want in wanted if want.key in found]

    def set(self, want: Rule, have: Rule | None, view: View) -> None:
        view.netlink.add_rule(_encoded_rule(want))

    def unset(self, have: Rule, view: View) -> None:
        view.netlink.delete_rule(_encoded_rule(have))

    def ours(self, view: View) -> Iterable[Rule]:
        return [rule for rule in rules(view) if rule.ours]


def rules(view: View) -> list[Rule]:
    """Every rule that selects by one subnet."""
    return [rule for family in _FAMILY for rule in _rules(family, view)]


def _rules(family: int, view: View) -> list[Rule]:
    return [Rule(*rule) for rule in view.rules(_FAMILY[family])]


def _encoded_rule(rule: Rule) -> wire.RuleMessage:
    return wire.RuleMessage(rule.priority, rule.selector, rule.subnet, rule.table, rule.proto, rule.mark)


EDGES: Mapping[str, Edge] = {Route.kind: Routes(), Rule.kind: Rules()}

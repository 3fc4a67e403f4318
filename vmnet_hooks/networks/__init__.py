"""The registry of modes, and the section that declares networks. A mode is one file, and one row here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, one_line
from ..model.declaration import Config, Declared, Network, Option, Required
from ..model.kind import Kind, Registry, Row
from ..model.mode import Mode
from ..services import SERVICES

MODES: Registry[Mode] = Registry(
    Row("routed", "vmnet_hooks.networks.routed", "Routed"),
    Row("bridged", "vmnet_hooks.networks.bridged", "Bridged"),
    Row("hostroute", "vmnet_hooks.networks.hostroute", "HostRoute"),
    Row("virtual", "vmnet_hooks.networks.virtual", "Virtual"),
)


def mode_option() -> Option:
    """Return the option that every network has."""
    return Option("mode", _mode, Required, f"one of {', '.join(MODES)}", '"routed"')


def _mode(value: object) -> Mode:
    if not isinstance(value, str) or value not in MODES:
        raise ValueError(f"is not a mode; use one of {', '.join(MODES)}")
    return MODES[value]


class Networks(Kind):
    """The networks: a table has the options of its mode."""

    def rows(self, table: Mapping[str, object], where: str) -> tuple[Option, ...]:
        if "mode" not in table:
            raise ConfigError(f"{where}.mode: missing; use one of {', '.join(MODES)}")
        try:
            rows = (mode_option(), *_mode(table["mode"]).options)
        except ValueError as error:
            raise ConfigError(f"{where}.mode: {one_line(repr(table['mode']))} {error}") from None
        # Few networks offer a service: the files of services are loaded for those, or to name the keys that there are.
        names = {row.name for row in rows}
        return rows if all(key in names for key in table) else (*rows, *(service.option for service in SERVICES.values()))

    def listed(self) -> Iterable[tuple[str, tuple[Option, ...]]]:
        yield f"{self.section}.NAME", (mode_option(), *(service.option for service in SERVICES.values()))
        for name, mode in MODES.items():
            yield f"{self.section}.NAME({name})", mode.options

    def bridge_in(self, table: object) -> str | None:
        if not isinstance(table, Mapping):
            return None
        if isinstance(table.get("bridge"), str):
            return str(table["bridge"])
        try:
            mode = _mode(table.get("mode"))
        except ValueError:
            return None
        return None if any(row.name == "bridge" for row in mode.options) else ""

    def hint(self, name: str, table: object, source: str) -> Iterable[Declared]:
        """Return a network with its links of IPv6, which keep it on: only routed networks have any."""
        if isinstance(table, Mapping) and table.get("ipv6") and isinstance(table.get("uplink"), str):
            there = {"uplink": table["uplink"], "ipv6": table["ipv6"]}
            return (Network(self, name, there, source, MODES["routed"]),)
        return ()

    def declare(self, name: str, options: Mapping[str, Any], source: str) -> Network:
        rest = {key: value for key, value in options.items() if key != "mode"}
        mode: Mode = options["mode"]
        return Network(self, name, mode.completed(name, rest), source, mode)

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        by_mode: dict[str, list[Network]] = {}
        networks = [part for part in parts if isinstance(part, Network)]
        for network in networks:
            by_mode.setdefault(network.mode.name, []).append(network)
        for name, of_mode in by_mode.items():
            MODES[name].check_together(of_mode, declared)
        for network in networks:
            for name in SERVICES:
                if network.options.get(name) is not None:
                    SERVICES[name].check(network, declared)

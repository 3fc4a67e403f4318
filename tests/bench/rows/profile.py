"""Where the time of a call goes, by part."""

from __future__ import annotations

import json
from statistics import median

from bench.hosts import HERE, PYTHON, Product
from bench.report import Effort

from .processes import EMPTY, host, ours

CALLS = ("start", "stopped", "bridge start", "bridge stopped")
PROGRAM = str(HERE / "parts.py")


def profile(product: Product, effort: Effort) -> list[list[str]]:
    """Milliseconds of a hook that does it all by itself, and of a call in the agent: a table, its first line the title."""
    repeat = effort(20, 5)
    with host(product) as on:
        commands = ours(on)
        empty = median(on.spawn({"floor": EMPTY}, ["floor"], repeat)["floor"])
        alone: dict[str, list[dict[str, float]]] = {name: [] for name in CALLS}
        for turn in range(repeat + 1):
            for name in CALLS:
                argv = [PYTHON, "-IS", PROGRAM, product.path, "hook", *commands[name]["argv"]]
                spent = json.loads(on.node.run(argv, input=commands[name]["stdin"]).stdout)
                # The first turn sets up the host's own part.
                if turn:
                    alone[name].append({"interpreter": empty, **spent})
        order = json.dumps({name: commands[name] for name in CALLS})
        served = json.loads(on.node.run([PYTHON, PROGRAM, product.path, "agent", 10 * repeat], input=order).stdout)
    columns = {f"no agent: {name}": typical(series) for name, series in alone.items()}
    columns |= {f"agent: {name}": typical(series) for name, series in served.items()}
    parts = {part for column in columns.values() for part in column}
    most = sorted(parts, key=lambda part: -sum(column.get(part, 0.0) for column in columns.values()))
    lines = [[part, *(milliseconds(column.get(part)) for column in columns.values())] for part in most]
    total = ["all", *(milliseconds(sum(column.values())) for column in columns.values())]
    return [["ms", *columns], *lines, total]


def typical(series: list[dict[str, float]]) -> dict[str, float]:
    """The mean of the middle third, by what the calls took in all."""
    ordered = sorted(series, key=lambda spent: sum(spent.values()))
    third = len(ordered) // 3
    middle = ordered[third : len(ordered) - third]
    return {part: sum(spent.get(part, 0.0) for spent in middle) / len(middle) for part in set().union(*middle)}


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f}"

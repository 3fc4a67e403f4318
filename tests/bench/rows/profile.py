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
    """Mean milliseconds of a hook that does it all by itself, and of a call in the agent: a table, its first line the title."""
    repeat = effort(20, 5)
    columns: dict[str, dict[str, float]] = {}
    with host(product) as on:
        commands = ours(on)
        empty = median(on.spawn({"floor": EMPTY}, ["floor"], repeat)["floor"])
        columns = {f"no agent: {name}": {"interpreter": empty} for name in CALLS}
        for turn in range(repeat + 1):
            for name in CALLS:
                command, column = commands[name], columns[f"no agent: {name}"]
                argv = [PYTHON, "-IS", PROGRAM, product.path, "hook", *command["argv"]]
                spent = json.loads(on.node.run(argv, input=command["stdin"]).stdout)
                # The first turn sets up the host's own part.
                for part, seconds in spent.items() if turn else ():
                    column[part] = column.get(part, 0.0) + seconds / repeat
        order = json.dumps({name: commands[name] for name in CALLS})
        done = on.node.run([PYTHON, PROGRAM, product.path, "agent", 10 * repeat], input=order)
        columns |= {f"agent: {name}": spent for name, spent in json.loads(done.stdout).items()}
    parts = {part for column in columns.values() for part in column}
    most = sorted(parts, key=lambda part: -sum(column.get(part, 0.0) for column in columns.values()))
    lines = [[part, *(milliseconds(column.get(part)) for column in columns.values())] for part in most]
    total = ["all", *(milliseconds(sum(column.values())) for column in columns.values())]
    return [["ms", *columns], *lines, total]


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f}"

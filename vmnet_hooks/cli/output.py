"""Output of commands: JSON, aligned columns, differences."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from ..errors import one_line

if TYPE_CHECKING:
    from ..engine.drift import Drift


def as_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def columns(
    header: Sequence[str], rows: Sequence[Sequence[object]], paint: Callable[[str, str], str] = lambda _, cell: cell
) -> None:
    """Print aligned columns. `paint(column, cell)` may colour a cell; click removes colours if the output is not a terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    last = len(header) - 1

    def padded(row: Sequence[str]) -> list[str]:
        return [cell if i == last else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]

    click.echo(click.style("  ".join(padded(list(header))), bold=True))
    for row in cells:
        click.echo("  ".join(paint(name, cell) for name, cell in zip(header, padded(row), strict=True)))


def as_rows(drifts: Sequence["Drift"]) -> list[dict[str, str]]:
    """Return differences as --json has them."""
    return [{name: getattr(drift, name) for name in ("owner", "kind", "key", "what", "remedy")} for drift in drifts]


def differences(drifts: Sequence["Drift"], to_json: bool, nothing: str) -> None:
    """Print what `check` found, or `nothing`."""
    if to_json:
        as_json(as_rows(drifts))
    elif not drifts:
        click.echo(nothing)
    else:
        columns(
            ("DOMAIN", "DIFFERENCE", "REMEDY"),
            [(one_line(d.owner) or "-", one_line(d.what), d.remedy.splitlines()[0]) for d in drifts],
        )

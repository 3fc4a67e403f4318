"""Tables on the terminal."""

from collections.abc import Callable, Sequence

import click


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], paint: Callable[[str, str], str] = lambda _, cell: cell
) -> None:
    """Aligned columns; `paint(column, cell)` may colour a cell (click drops colours where there is no terminal)."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    last = len(header) - 1

    def padded(row: Sequence[str]) -> list[str]:
        return [cell if i == last else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]

    click.echo(click.style("  ".join(padded(list(header))), bold=True))
    for row in cells:
        click.echo("  ".join(paint(name, cell) for name, cell in zip(header, padded(row), strict=True)))

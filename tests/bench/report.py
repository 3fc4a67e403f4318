"""What a measurement comes to: rows with limits, as one table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

MET, MISSED, BROKEN, UNKNOWN, SHOWN = "met", "MISSED", "BROKEN", "NOT MEASURED", ""


@dataclass(frozen=True)
class Effort:
    """How much to measure. `quick` is for CI: fewer repetitions, smaller crowds where a crowd's size matters little."""

    quick: bool

    def __call__(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table. `limit` is what must be reached on a quiet machine, `ci_limit` what a busy one must not exceed
    either; None for both: only shown. `measured` None: it could not be measured, and `detail` says why."""

    what: str
    measured: float | None
    unit: str
    limit: float | None = None
    ci_limit: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return UNKNOWN
        if self.limit is None or self.ci_limit is None:
            return SHOWN
        if self.measured <= self.limit:
            return MET
        return MISSED if self.measured <= self.ci_limit else BROKEN

    @property
    def cells(self) -> tuple[str, str, str, str]:
        measured = "-" if self.measured is None else figure(self.measured, self.unit)
        limit = "" if self.limit is None else f"≤ {figure(self.limit, self.unit)}"
        return self.what, f"{measured}  {self.detail}".rstrip(), limit, self.verdict


def figure(value: float, unit: str) -> str:
    places = 0 if value >= 99.95 or value == int(value) else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{places}f} {unit}".rstrip()


def ratio(
    what: str,
    ours: Sequence[float],
    other: Sequence[float],
    limit: float | None = None,
    ci_limit: float | None = None,
    scale: float = 1e3,
    unit: str = "ms",
) -> Row:
    """The medians' ratio; both series come from one interleaved run. `scale` turns their numbers into `unit`."""
    one, two = median(ours), median(other)
    return Row(what, one / two, "×", limit, ci_limit, f"({figure(one * scale, '')} / {figure(two * scale, unit)})")


def middle(
    what: str, series: Sequence[float], scale: float, unit: str, limit: float | None = None, ci_limit: float | None = None
) -> Row:
    """The median itself. `scale` turns the series' numbers into `unit`."""
    return Row(what, median(series) * scale, unit, limit, ci_limit)


def unknown(what: str, why: object, limit: float | None = None, ci_limit: float | None = None, unit: str = "×") -> Row:
    """A row that could not be measured."""
    return Row(what, None, unit, limit, ci_limit, " ".join(str(why).split())[-160:])


def table(title: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(line[column]) for line in (title, *lines)) for column in range(len(title))]
    shown = [title, ["-" * width for width in widths], *lines]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown)


def rows_table(rows: Iterable[Row]) -> str:
    return table(("what", "measured", "must reach", "verdict"), [row.cells for row in rows])


def as_data(rows: Iterable[Row]) -> list[dict[str, object]]:
    return [asdict(row) | {"verdict": row.verdict} for row in rows]


def failed(rows: Iterable[Row], quick: bool) -> list[Row]:
    """The rows for which `run.py` exits with 1. A busy machine's quick run is only held to the generous limits."""
    bad = (UNKNOWN, BROKEN) if quick else (UNKNOWN, BROKEN, MISSED)
    return [row for row in rows if row.verdict in bad]

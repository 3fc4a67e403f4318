"""Prints one table of what the product costs: `run.py [--quick] [--only WORD]… [--json FILE] [--against FOLDER]`. Needs root.

All is measured in namespaces of its own, as ratios within one run: what is compared takes turns, so that whatever else the
machine does hits both. --quick is for CI: fewer repetitions, and exit status 1 only if a generous limit is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `import lab` and `import bench`

from bench.hosts import ROOT, Product  # noqa: E402
from bench.report import Effort, Row, as_data, failed, figure, rows_table, table, unknown  # noqa: E402
from bench.rows import forwarding, migration, plugs, processes, profile, services  # noqa: E402

PARTS = {
    "processes": processes.ignored_and_handled,
    "plugs": plugs.plugs,
    "prefixes": plugs.prefixes,
    "in-process": processes.in_process,
    "at-once": processes.at_once,
    "forwarding": forwarding.forwarding,
    "arp": forwarding.arp,
    "migration": migration.migration,
    "services": services.services,
}
WORSE = 1.05
"""No change may make a row worse than this, `--against` what was before."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about three minutes instead of fifteen")
    parser.add_argument("--only", action="append", metavar="PART", choices=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--source", type=Path, default=ROOT, metavar="FOLDER", help="the checkout to measure; default: this one")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with this other checkout, in turns")
    parser.add_argument("--turns", type=int, default=3, help="how often each of the two is measured; default: 3")
    parser.add_argument("--no-profile", action="store_true", help="leave out the second table: where the time of a call goes")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root (network namespaces); run: sudo make bench")
    effort, rows = Effort(options.quick), []
    parts = None
    if options.against:
        quick = ["--quick"] if options.quick else []
        return compare(options.source, options.against, options.only or list(PARTS), quick, options.turns)
    with Product(options.source.resolve()) as product:
        for name, measure in PARTS.items():
            if options.only and name not in options.only:
                continue
            begin = time.monotonic()
            print(f"== {name} …", file=sys.stderr, end="", flush=True)
            try:
                rows += measure(product, effort)
            except Exception as error:
                traceback.print_exc()
                rows.append(unknown(name, error))
            print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        if not options.no_profile and (not options.only or "in-process" in options.only):
            parts = profile.profile(product, effort)
    tell(rows, parts, options.json, options.quick)
    return 1 if failed(rows, options.quick) else 0


def compare(new: Path, old: Path, names: list[str], options: list[str], turns: int) -> int:
    """Measure two checkouts in turns, part by part, each with its own bench. Prints the medians of both; 1 if a row is more than
    5 % worse."""
    lines, worse = [], False
    for name in names:
        begin = time.monotonic()
        print(f"== {name} …", file=sys.stderr, end="", flush=True)
        found: dict[str, tuple[list[float], list[float]]] = {}
        units = {}
        for _ in range(turns):
            for side, source in enumerate((old, new)):
                for row in measured(source, ["--only", name, *options]):
                    found.setdefault(row["what"], ([], []))[side].append(row["measured"])
                    units[row["what"]] = row["unit"]
        print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        for what, series in found.items():
            if not all(series) or None in (*series[0], *series[1]):
                lines.append([what, "-", "-", "-", "NOT MEASURED"])
                continue
            before, after = map(median, series)
            bad = after > WORSE * before
            worse |= bad
            shown = [figure(value, units[what]) for value in (before, after)]
            lines.append([what, *shown, figure(after / before, "×"), "WORSE" if bad else ""])
    print(table(("what", "before", "after", "after / before", "verdict"), lines))
    return int(worse)


def measured(source: Path, options: list[str]) -> list[dict[str, Any]]:
    """The rows of a checkout's own bench."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = [sys.executable, source / "tests/bench/run.py", "--no-profile", "--json", file.name, *options]
        done = subprocess.run(words, capture_output=True, text=True)
        try:
            return json.load(file)["rows"]
        except ValueError:
            raise SystemExit(f"{source}: {done.stderr}") from None


def tell(rows: list[Row], parts: list[list[str]] | None, file: Path | None, quick: bool) -> None:
    print(rows_table(rows))
    if parts:
        print(f"\nWhere the time of a call goes\n{table(parts[0], parts[1:])}")
    if file:
        about = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count(), "quick": quick}
        file.write_text(json.dumps({**about, "rows": as_data(rows), "profile": parts}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

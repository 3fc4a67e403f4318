"""Prints one table of what the product costs: `run.py [--quick] [--only WORD]… [--json FILE]`. Needs root.

All is measured in namespaces of its own, as ratios within one run: what is compared takes turns, so that whatever else the
machine does hits both. --quick is for CI: fewer repetitions, and exit status 1 only if a generous limit is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `import lab` and `import bench`

from bench.hosts import ROOT, Product  # noqa: E402
from bench.report import Effort, Row, as_data, failed, rows_table, table, unknown  # noqa: E402
from bench.rows import forwarding, migration, plugs, processes, profile  # noqa: E402

PARTS = {
    "processes": processes.ignored_and_handled,
    "plugs": plugs.plugs,
    "in-process": processes.in_process,
    "at-once": processes.at_once,
    "forwarding": forwarding.forwarding,
    "arp": forwarding.arp,
    "migration": migration.migration,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about three minutes instead of fifteen")
    parser.add_argument("--only", action="append", metavar="PART", choices=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--source", type=Path, default=ROOT, metavar="FOLDER", help="the checkout to measure; default: this one")
    parser.add_argument("--no-profile", action="store_true", help="leave out the second table: where the time of a call goes")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root (network namespaces); run: sudo make bench")
    effort, rows = Effort(options.quick), []
    parts = None
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


def tell(rows: list[Row], parts: list[list[str]] | None, file: Path | None, quick: bool) -> None:
    print(rows_table(rows))
    if parts:
        print(f"\nWhere the time of a call goes\n{table(parts[0], parts[1:])}")
    if file:
        about = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count(), "quick": quick}
        file.write_text(json.dumps({**about, "rows": as_data(rows), "profile": parts}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""Prints what hooks/client.c is compiled with: `table.py PROGRAM`, the path at which hooks/run is installed.

The rows are those of vmnet_hooks/frontends, the sizes those of vmnet_hooks/hook/client.py.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmnet_hooks import CONFIGURATION, RUN, __version__, frontends  # noqa: E402
from vmnet_hooks.hook import client  # noqa: E402

PYTHON = "/usr/bin/python3"


def string(text: str) -> str:
    """Return `text`, which is ASCII, as a literal of C."""
    if not text.isprintable() or not text.isascii():
        raise SystemExit(f"table.py: {text!r}: only printable ASCII")
    return json.dumps(text)


def words(values: Iterable[str]) -> str:
    return f"(const char *const[]){{{', '.join([*map(string, values), 'NULL'])}}}"


def table(program: str) -> str:
    """Return the text of the header."""
    if not program.endswith("/hooks/run"):
        raise SystemExit(f"table.py: {program}: hooks/run learns by its path that the client runs it")
    known = frontends.hooks()
    texts = {
        "PROGRAM": program,
        "PYTHON": PYTHON,
        "VERSION": __version__,
        "CONFIGURATION": CONFIGURATION,
        "RUN": RUN,
        "SOCKET": client.SOCKET,
    }
    numbers = {
        "MAX_STDIN": client.MAX_STDIN,
        "MAX_WORDS": client.MAX_WORDS,
        "MAX_ANSWER": client.MAX_ANSWER,
        "SECONDS": int(client.SECONDS),
    }
    lines = [f"#define {name} {string(text)}" for name, text in texts.items()]
    lines += [f"#define {name} {number}" for name, number in numbers.items()]
    lines.append("static const struct hook HOOKS[] = {")
    for name, row in known.items():
        lists = (row.operations, row.preparing, (variable.decode() for variable in row.mark))
        flags = (row.of_root, name.rpartition("/")[2] in row.served, row.stdin)
        cells = [
            *map(string, (name, row.name, row.variable.decode())),
            *map(words, lists),
            str(row.position),
            *(str(int(flag)) for flag in flags),
        ]
        lines.append(f"    {{{', '.join(cells)}}},")
    lines += ["};", "static const struct place PLACES[] = {"]
    # As frontends.of: names come before places.
    for number, name in enumerate(known):
        lines.append(f"    {{{string('')}, {string('/' + name)}, {number}}},")
    for number, (name, row) in enumerate(known.items()):
        for place in row.places:
            inside, _, end = place.format(name.rpartition("/")[2]).partition("*")
            lines.append(f"    {{{string(inside)}, {string(end)}, {number}}},")
    return "\n".join([*lines, "    {NULL, NULL, 0},", "};", ""])


if __name__ == "__main__":
    sys.stdout.write(table(*sys.argv[1:]))

"""`vmnet-hook import --dot`: the edges of a topology become wires, and what can't is told."""

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmnet_hooks.cli import main

PTM = """\
/* A leaf and two spines,
   as PTM has them. */
graph G {
  graph [hostidtype="hostname", version="1:0"];  # no node
  "leaf1":"swp1" -- "spine1":"swp1" [left_mac="00:00:00:00:00:01"; note="]"];
  "leaf1":"swp2" -- "spine2":"Ethernet1/1";
  // chains
  web_1:eth0 -- web.2:eth0; web.2:eth1 -> web3:"e1-2"
}
"""


def imported(tmp_path: Path, text: str) -> str:
    (tmp_path / "lab.dot").write_bytes(text.encode(errors="surrogateescape"))
    done = CliRunner().invoke(main, ["import", "--dot", str(tmp_path / "lab.dot")])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_topology(tmp_path):
    wires = tomllib.loads(imported(tmp_path, PTM))["wires"]
    assert {name: table["ends"] for name, table in wires.items()} == {
        "leaf1_1-spine1_1": ["leaf1:1", "spine1:1"],
        "leaf1_2-spine2_1": ["leaf1:2", "spine2:1"],
        "web_1_0-web_2_0": ["web_1:0", "web.2:0"],
        "web_2_1-web3_2": ["web.2:1", "web3:2"],
    }


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("a -- b", "a does not tell the NIC's number; write a:eth1"),
        ("a:lo -- b:eth1", "a:lo does not tell the NIC's number"),
        ("x:swp1 -- y:swp1", "NIC 1 of x is an end of x:eth1 -- y:eth2 already"),
        ("a:e1 -- a:e1", "has a:1 at both ends"),
        ('"a\nb":"e1" -- c:e1', "names no guest"),
        ('"$(reboot)":"e1234" -- c:e1', "does not tell the NIC's number"),
        ("link:eth7 -- c:eth1", "stands for the host's own links"),
    ],
)
def test_what_is_not_carried_over(edge, why, tmp_path):
    text = imported(tmp_path, f"graph {{ x:eth1 -- y:eth2\n{edge}\n}}")
    assert [*tomllib.loads(text)["wires"]] == ["x_1-y_2"]
    [comment] = [line for line in text.splitlines() if "not carried over" in line]
    assert why in comment and re.search(r"lab\.dot:\d: ", comment), comment


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no graph in DOT"),
        ("digraph G", "no graph in DOT"),
        ("graph { a:1 -- b:1 $", "lab.dot:1: ' $' is not DOT"[:12]),
        ('graph {\n"a:1 -- b:1 }', "lab.dot:2: '\"a:1"),
        ("graph { \udcff }", "not UTF-8 at byte 8"),
    ],
)
def test_what_is_no_graph(text, problem, tmp_path):
    (tmp_path / "lab.dot").write_bytes(text.encode(errors="surrogateescape"))
    done = CliRunner().invoke(main, ["import", "--dot", str(tmp_path / "lab.dot")])
    assert done.exit_code == 2 and problem in done.output and len(done.output.splitlines()) == 1, done.output


def test_one_source_at_a_time(tmp_path):
    done = CliRunner().invoke(main, ["import", "--dot", "x", "--live"])
    assert done.exit_code == 2 and "--dot reads wires, and nothing else" in done.output
    done = CliRunner().invoke(main, ["import", "--dot", str(tmp_path / "none.dot")])
    assert done.exit_code == 2 and "No such file" in done.output

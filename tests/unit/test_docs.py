"""The man pages and the examples match the program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from vmnet_hooks import cli
from vmnet_hooks.engine.drift import Kind
from vmnet_hooks.frontends import libvirt_connection

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
MAN8, MAN8D, MAN5 = ROOT / "man/vmnet-hook.8", ROOT / "man/vmnet-hookd.8", ROOT / "man/vmnet.toml.5"


def vmnet_hook(*argv: object) -> str:
    """Run a command that works; returns what it prints."""
    result = CliRunner().invoke(cli.main, [str(word) for word in argv], prog_name="vmnet-hook")
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def valid(folder: Path) -> None:
    vmnet_hook("validate", "--config-dir", folder)


@pytest.fixture(autouse=True)
def _no_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_connection, "known_macs", set)


def words(page: Path) -> str:
    """The page without its markup."""
    text = re.sub(r"^\.(It )?", "", page.read_text(), flags=re.M)
    return re.sub(r"\b(Fl|Ar|Cm|Ic|Pa|Op|Li|Oo|Oc|Ns) ", "", text.replace("Fl -", "--"))


def listed(help_text: str, heading: str) -> list[str]:
    """First words of a section of click's help."""
    section = help_text.split(f"{heading}:\n", 1)[1].split("\n\n")[0]
    return re.findall(r"^  (\S.*?)(?:  |$)", section, flags=re.M)


def commands() -> list[str]:
    text = vmnet_hook("--help")
    return [command for group in ("Guests", "Host", "Look", "Files") for command in listed(text, group)]


def test_every_command_and_option_is_in_the_man_page() -> None:
    page, text = MAN8.read_text(), words(MAN8)
    found = commands()
    assert len(found) > 10
    lacking = []
    for command in found:
        described = re.search(rf"^\.It Cm {command}\b.*", page, flags=re.M)
        if not described or not re.search(rf"^\.Cm {command}$", page, flags=re.M):
            lacking.append(command)
            continue
        for option in re.findall(r"--[a-z-]+", " ".join(listed(vmnet_hook(command, "--help"), "Options"))):
            if option != "--help" and option not in described[0].replace("Fl -", "--"):
                lacking.append(f"{command} {option}")
    for option in re.findall(r"--[a-z-]+", " ".join(listed(vmnet_hook("--help"), "Options"))):
        if option not in text:
            lacking.append(option)
    assert not lacking


def test_the_man_page_has_no_command_that_does_not_exist() -> None:
    assert set(re.findall(r"^\.It Cm (\S+)", MAN8.read_text(), flags=re.M)) == set(commands())


CHAPTERS = {
    "networks.NAME": ("NETWORKS", "Addresses by DHCP", "Leases", "Names"),
    "networks.NAME(routed)": ("Mode routed",),
    "networks.NAME(bridged)": ("Mode bridged",),
    "networks.NAME(hostroute)": ("Mode hostroute",),
    "networks.NAME(virtual)": ("Mode virtual", "Every link"),
    "vlans.NAME": ("VLANs", "Every link"),
    "bonds.NAME": ("Bonds", "Every link"),
    "bridges.NAME": ("Bridges", "Every link"),
    "dummies.NAME": ("Every link",),
    "nat.NAME": ("NAT",),
    "forward.NAME": ("Forwarded ports",),
    "wires.NAME": ("Wires",),
    "ddns.NAME": ("Names at a DNS server",),
    "domains.d/DOMAIN.toml: interfaces[]": ("domains.d",),
}
"""Where the man page has the keys of a section."""


def entries(page: str) -> dict[tuple[str, str], str]:
    """What the page says of each key, by chapter and key. One entry may be of several keys."""
    found: dict[tuple[str, str], str] = {}
    for chapter in re.split(r"^\.S[hs] ", page, flags=re.M)[1:]:
        heading, _, text = chapter.partition("\n")
        for entry in re.split(r"^\.It Ic ", text, flags=re.M)[1:]:
            for key in entry.partition("\n")[0].split(" , "):
                # ipv4 and ipv6 both have a subnet and a gateway.
                found[heading, key] = found.get((heading, key), "") + entry
    return found


def test_every_key_is_in_the_man_page_and_nothing_else() -> None:
    described, lacking, used = entries(MAN5.read_text()), [], set()
    for row in json.loads(vmnet_hook("options", "--json")):
        prefix = max((name for name in CHAPTERS if row["key"].startswith(f"{name}.")), key=len)
        key, default = row["key"].rpartition(".")[2], row["default"]
        places = [(chapter, key) for chapter in CHAPTERS[prefix] if (chapter, key) in described]
        used.update(places)
        if not places:
            lacking.append(row["key"])
        elif isinstance(default, str | int) and not isinstance(default, bool) and default != "":
            if not any(str(default) in described[place] for place in places):
                lacking.append(f"{row['key']}: default {default}")
    assert not lacking
    assert set(described) == used


def test_every_kind_of_difference_is_in_the_man_page() -> None:
    described = MAN8.read_text().partition("The kinds are:")[2].partition(".El")[0]
    assert tuple(re.findall(r"^\.It Li (\S+)$", described, flags=re.M)) == get_args(Kind)


def test_exit_codes_and_files_are_in_the_man_page() -> None:
    text = words(MAN8)
    for path in ("/etc/vmnet-hooks/vmnet.toml", "/run/vmnet-hooks/state.db", "/etc/iproute2/rt_protos.d/vmnet.conf"):
        assert path in text
    assert re.search(r"EXIT STATUS.*\n0\n.*\n1\n.*\n2\n", text, flags=re.S)


def test_the_agent_is_what_its_man_page_says() -> None:
    """Its options and limits are those of the program, its rights those of the unit."""
    script = """if True:
        from vmnet_hooks.hook import client
        from vmnet_hooks.agent import main, metrics, server
        from vmnet_hooks.model.ruleset import KEEPER
        size = (2 * server.MAX_WORDS + client.MAX_STDIN) >> 20
        print(client.SOCKET, metrics.PATH, KEEPER, sep="\\n")
        print(f"has not answered within {client.SECONDS:.0f} seconds", f"a request is at most {size} MiB", sep="\\n")
        print(f"{server.READ_SECONDS:.0f} seconds", f"not later than after {main.GRACE:.0f} seconds", sep="\\n")
    """
    done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, cwd=ROOT, env=ENV)
    assert done.returncode == 0, done.stderr
    unit = (ROOT / "etc/systemd/vmnet-hookd.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    written = [path.lstrip("-") for path in settings["ReadWritePaths"].split()]
    written += [f"/run/{name}" for name in settings["RuntimeDirectory"].split()]
    wanted = [*done.stdout.splitlines(), *written, *settings["CapabilityBoundingSet"].split()]
    text = " ".join(words(MAN8D).split())
    assert [word for word in wanted if word not in text] == []
    help_text = subprocess.run(
        ["/usr/bin/python3", "-m", "vmnet_hooks.agent", "--help"], capture_output=True, text=True, cwd=ROOT, env=ENV
    ).stdout
    options = re.findall(r"--[a-z-]+", " ".join(listed(help_text, "Options")))
    assert options and [option for option in options if option.removeprefix("-") not in text] == []
    limit, burst = settings["StartLimitIntervalSec"], settings["StartLimitBurst"]
    assert (limit, settings["RestartSec"], settings["WatchdogSec"]) == ("60", "1", "60")
    assert f"ended {burst} times within a minute" in text


EXAMPLES = [*sorted((ROOT / "etc/examples").glob("*.toml")), *sorted((ROOT / "etc/xen").glob("*/vmnet.toml"))]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_example_configuration_is_valid(example: Path, tmp_path: Path) -> None:
    (tmp_path / "vmnet.toml").write_text(example.read_text())
    (tmp_path / "domains.d").mkdir()
    if example.stem == "routed-and-bridged":
        (tmp_path / "domains.d/example.toml").write_text((ROOT / "etc/domains.d/example.toml").read_text())
    valid(tmp_path)


def test_every_example_is_installed() -> None:
    """pip is told of each file; dh_installexamples takes folders."""
    setup, debian = (ROOT / "setup.cfg").read_text().split(), (ROOT / "debian/vmnet-hooks.examples").read_text().split()
    files = [path.relative_to(ROOT) for folder in ("examples", "xen") for path in (ROOT / "etc" / folder).rglob("*")]
    files = [path for path in files if (ROOT / path).is_file()]
    assert len(files) > 40 and [path for path in files if str(path) not in setup] == []
    assert [path for path in files if not {str(path), *map(str, path.parents)} & set(debian)] == []


def test_shipped_configuration_is_valid_as_it_is_and_uncommented(tmp_path: Path) -> None:
    """Prose starts with `# `, configuration with `#`."""
    shipped = (ROOT / "etc/vmnet.toml").read_text()
    assert tomllib.loads(shipped) == {}
    uncommented = re.sub(r"^#(?=[^ \n])", "", shipped, flags=re.M)
    assert set(tomllib.loads(uncommented)["networks"]) == {"public", "lan"}
    assert set(tomllib.loads(uncommented)["bridges"]) == {"br0"}
    (tmp_path / "vmnet.toml").write_text(uncommented)
    valid(tmp_path)


def literals(page: Path) -> list[str]:
    return [
        re.sub(r"\\e", r"\\", text) for text in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", page.read_text(), flags=re.M | re.S)
    ]


def test_configuration_in_the_man_page_is_valid(tmp_path: Path) -> None:
    networks = [text for text in literals(MAN5) if re.match(r"\[\w", text)]
    assert len(networks) == 10
    (guest,) = [text for text in literals(MAN5) if text.startswith("[[interfaces]]")]
    for number, text in enumerate(networks):
        folder = tmp_path / str(number)
        (folder / "domains.d").mkdir(parents=True)
        (folder / "vmnet.toml").write_text(text)
        if "networks.public" in text and "ipv6" in text:  # the network that the guest is on
            (folder / "domains.d/web1.toml").write_text(guest)
        valid(folder)


def test_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert len(blocks) > 3
    for number, text in enumerate(blocks):
        if text.startswith("[[interfaces]]"):
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "vmnet.toml").write_text(text)
        valid(folder)


def test_the_readme_shows_what_the_example_for_xen_shows() -> None:
    """The example is played, its output compared."""
    played = re.findall(r"(?m)(?:^    .*\n)+", (ROOT / "etc/xen/one-bridge/README").read_text())
    shown = [block for block in re.findall(r"(?m)(?:^    .*\n)+", (ROOT / "README.md").read_text()) if "# xl create" in block]
    assert len(shown) == 1 and shown[0] in played
    guest = (ROOT / "etc/xen/one-bridge/domu.cfg").read_text()
    assert re.findall(r"`(vif = .*)`", (ROOT / "README.md").read_text()) == re.findall(r"(?m)^(vif = .*)$", guest)


def test_the_ifupdown_stanza_of_the_man_page_is_a_routed_network() -> None:
    (stanza,) = [text for text in literals(MAN8) if text.startswith("auto ")]
    options = dict(line.split(None, 1) for line in stanza.splitlines()[2:])
    environment = {f"IF_{key.upper().replace('-', '_')}": value for key, value in options.items()}
    script = "import os; from vmnet_hooks.frontends import ifupdown; print(dict(ifupdown.event(os.environ).network.options))"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**ENV, **environment, "IFACE": "eth1", "ADDRFAM": "inet", "MODE": "start"},
    )
    assert done.returncode == 0 and "'table': 222" in done.stdout and "'role': 'host'" in done.stdout, done.stderr


def test_example_domain_can_be_planned_for() -> None:
    """The same metadata in the example, in the man page and in what the front end reads."""
    example = ElementTree.parse(ROOT / "etc/examples/dom1.xml")
    (metadata,) = [text for text in literals(MAN5) if text.startswith("<metadata>")]
    page = ElementTree.fromstring(metadata)
    expected = ElementTree.tostring(page, encoding="unicode").split()
    assert ElementTree.tostring(example.find("metadata"), encoding="unicode").split() == expected


@pytest.mark.parametrize("page", [MAN8, MAN8D, MAN5], ids=lambda path: path.name)
def test_man_page_is_well_formed(page: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("needs man: apt-get install man-db")
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
        capture_output=True,
        text=True,
        env={**ENV, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr


def guarantees() -> list[list[str]]:
    """The rows of the table of what a guest can't do: what, of which NIC, the tests."""
    section = (ROOT / "README.md").read_text().partition("## What a guest can't do\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_guarantee_has_its_tests() -> None:
    assert len(guarantees()) > 10
    for what, _, tests in guarantees():
        named = re.findall(r"`([^`]+)::(test_[a-z0-9_]+)`", tests)
        assert named, f"nothing proves: {what}"
        for path, name in named:
            text = (ROOT / "tests/netns" / path).read_text()
            assert re.search(rf"(?m)^def {name}\(", text), f"{path} has no {name}"


def test_every_guarantee_is_in_the_man_page() -> None:
    section = MAN8.read_text().partition("\n.Sh GUARANTEES\n")[2].partition("\n.Sh ")[0]
    told = section.partition(".El")[0].split(".It\n")[1:]
    assert [each.splitlines()[0] for each in told] == [what for what, *_ in guarantees()]

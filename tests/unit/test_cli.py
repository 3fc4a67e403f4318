"""The registry of commands, those that need no root (validate, options, mac), and how errors look."""
# ruff: noqa: E501  (tables of inputs and messages)

import json
import os
import re

import click
import pytest
from click.testing import CliRunner
from scenario import EVERYTHING

from vmnet_hooks import cli, values
from vmnet_hooks.cli import arguments
from vmnet_hooks.declared import SECTIONS, configuration
from vmnet_hooks.frontends import libvirt_connection
from vmnet_hooks.model.guest import Vif
from vmnet_hooks.model.owner import Nic
from vmnet_hooks.networks import MODES
from vmnet_hooks.records import store


def test_validate_a_directory_that_is_not_there(run):
    refused = run("validate", "--config-dir", "/nosuch")
    assert refused.exit_code == 2 and "/nosuch: no such directory" in refused.output


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "domains.d").mkdir()
    (tmp_path / "vmnet.toml").write_text(EVERYTHING)
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(libvirt_connection, "known_macs", set)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(*argv: str):
        result = CliRunner().invoke(cli.main, list(argv), prog_name="vmnet-hook")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


def test_validate(run, tmp_path):
    (tmp_path / "domains.d" / "web.toml").write_text(
        '[[interfaces]]\nifname = "tap0"\nnetwork = "public"\nips = ["192.0.2.10"]\n'
    )
    result = run("validate", "--config-dir", str(tmp_path))
    assert (result.exit_code, result.output) == (0, "ok: 3 networks, 1 domains\n")
    result = run("validate", "--config-dir", str(tmp_path), "--json")
    assert json.loads(result.output) == {"networks": ["public", "edge", "lan"], "parts": [], "domains": ["web"], "errors": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[interfaces]]\nifname = "t"\nnetwork = "publc"\n', r"interfaces\[1\].network: no network 'publc' is declared; did you mean 'public'"),
        ('[[interfaces]]\nifname = "t"\nnetwork = "public"\nips = ["192.0.2.1"]\n', "192.0.2.1 is the gateway's"),
        ('[[interfaces]]\nifname = "t"\nnetwork = "public"\nips = ["192.0.2.255"]\n', "is the broadcast address"),
        ('[[interfaces]]\nifname = "t"\nnetwork = "public"\nips = ["192.0.2.9"]\n[[interfaces]]\nifname = "u"\nnetwork = "public"\n'
         'ips = ["192.0.2.9"]\n', r"interfaces\[2\]: 192.0.2.9 is also given in .*interfaces\[1\]; change one"),
        ("rubbish", "not TOML"),
    ],
)  # fmt: skip
def test_validate_reads_domains(text, message, run, tmp_path):
    (tmp_path / "domains.d" / "web.toml").write_text(text)
    result = run("validate", "--config-dir", str(tmp_path))
    assert result.exit_code == 2
    assert re.search(message, result.output) and result.output.startswith("vmnet-hook: ") and result.output.count("\n") == 1


def test_options_lists_every_key(run):
    rows = json.loads(run("options", "--json").output)
    keys = {row["key"] for row in rows}
    for name, mode in MODES.items():
        for row in mode.options:
            assert f"networks.NAME({name}).{row.name}" in keys
            inner = f"networks.NAME({name}).{row.name}" + ("[]" if row.listed else "")
            assert {f"{inner}.{sub.name}" for sub in row.keys} <= keys
    assert all(row["doc"] for row in rows)
    for section, kind in SECTIONS.items():
        assert {f"{section}.NAME.{row.name}" for row in kind.options} <= keys
    assert "networks.NAME.mode" in keys
    text = run("options").output.splitlines()
    assert text[0].split() == ["KEY", "DEFAULT", "EXAMPLE", "MEANING"] and len(text) == len(rows) + 1
    column = text[0].index("MEANING")
    assert all(line[column - 2 : column] == "  " for line in text), "aligned"
    assert "\x1b" not in "".join(text), "no colour without a terminal"


@pytest.mark.parametrize(
    ("argv", "prefix"), [((), "52:54:00:"), (("--oui", "00:16:3e"), "00:16:3e:"), (("--oui", "00:16:3E"), "00:16:3e:")]
)
def test_mac(argv, prefix, run):
    found = {run("mac", *argv).output.strip() for _ in range(5)}
    assert len(found) == 5 and all(values.mac(mac) == mac and mac.startswith(prefix) for mac in found)


@pytest.mark.parametrize("oui", ["", "xx:yy:zz", "01:00:5e", "52:54", "; id"])
def test_mac_of_a_wrong_oui(oui, run):
    result = run("mac", "--oui", oui)
    assert result.exit_code == 2 and result.output.startswith("vmnet-hook: --oui ") and result.output.count("\n") == 1
    assert "write it as 52:54:00" in result.output


def test_a_mac_in_use_is_not_given(run, monkeypatch):
    given = iter([bytes([0, 0, 1]), bytes([0, 0, 2])])
    monkeypatch.setattr(libvirt_connection, "known_macs", lambda: {"52:54:00:00:00:01"})
    monkeypatch.setattr(os, "urandom", lambda n: next(given))
    assert run("mac").output == "52:54:00:00:00:02\n"


@pytest.mark.parametrize("argv", [["status"], ["check"], ["repair"], ["up", "edge"], ["down", "edge"], ["stop", "x"]])
def test_who_is_not_root_is_told(argv, run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run(*argv)
    assert result.exit_code == 1 and "use sudo" in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["set", "d", "rubbish", "--network", "public"], ["set", "d", "52:54:00:aa:00:10", "--network", "publik"],
             ["set", "d", "52:54:00:aa:00:10", "--network", "public", "--ip", "192.0.2.1"], ["unset", "d", "x"],
             ["start", "d", "--xml", "/nonexistent"], ["plan", "d", "--xml", "/dev/null"],
             ["plan", "up", "--stop"], ["plan", "down", "--xml", "/dev/null"]],
)  # fmt: skip
def test_wrong_input(argv, run):
    result = run(*argv)
    assert result.exit_code == 2 and result.output.startswith("vmnet-hook: ") and result.output.count("\n") == 1


@pytest.mark.parametrize("argv", [["nonsense"], ["start"], ["mac", "--nonsense"], ["set", "d", "52:54:00:aa:00:10"]])
def test_usage(argv, run):
    result = run(*argv)
    assert result.exit_code == 2 and "Usage: vmnet-hook" in result.output and "Error: " in result.output


def test_the_xml_must_be_of_that_domain(run, tmp_path):
    (tmp_path / "xml").write_text("<domain><name>other\n\x0d</name></domain>")
    result = run("plan", "d", "--xml", str(tmp_path / "xml"))
    assert result.exit_code == 2 and "describes domain 'other" in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize("command", [row.name for row in cli.COMMANDS])
def test_help(command, run):
    result = run(command, "--help")
    assert result.exit_code == 0 and result.output.startswith(f"Usage: vmnet-hook {command} ")


def test_help_lists_every_command_in_its_group_uncut(run):
    lines = run("--help").output.splitlines()
    heading, found = "", []
    for line in lines[lines.index("Guests:") :]:
        if line.endswith(":"):
            heading = line.removesuffix(":")
        elif line:
            found.append((heading, *line.strip().split(maxsplit=1)))
    assert found == [(row.group, row.name, row.help) for row in cli.COMMANDS]
    assert "..." not in "".join(lines[lines.index("Guests:") :]) and max(map(len, lines)) < 80


def test_a_new_command_is_a_function_and_a_row(run, tmp_path, monkeypatch):
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "dummy.py").write_text(
        "import click\n\n"
        "from vmnet_hooks.cli.arguments import DOMAIN\n"
        "from vmnet_hooks.errors import InputError\n\n\n"
        '@click.command("say-hello")\n'
        "@DOMAIN\n"
        "def say_hello(domain):\n"
        '    """Greet DOMAIN."""\n'
        '    if domain == "nobody":\n'
        '        raise InputError("nobody: not here; try another")\n'
        '    click.echo(f"hello {domain}")\n'
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path / "commands")])
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, cli.Row("say-hello", "dummy", "Look", "Greet a guest.")))
    assert run("say-hello", "web").output == "hello web\n"
    result = run("say-hello", "nobody")
    assert (result.exit_code, result.output) == (2, "vmnet-hook: nobody: not here; try another\n")
    assert re.search("^  say-hello    Greet a guest.$", run("--help").output, re.M)
    assert "Greet DOMAIN." in run("say-hello", "--help").output
    context = click.Context(cli.main)
    assert [item.value for item in cli.main.shell_complete(context, "say")] == ["say-hello"]


def test_completion_of_networks(run):
    assert arguments.network_names(None, None, "e") == ["edge"]
    assert arguments.network_names(None, None, "") == ["public", "edge", "lan"]


def test_completion_of_domains(run, tmp_path):
    records = store.Store()
    for number, domain in enumerate(("web", "db", "web", "wiki")):
        owner = Nic(
            **dict(id=f"u{number}/m", domain=domain, domain_id=f"u{number}", ifname=f"tap{number}", ifindex=number + 1),
            **dict(mac="m", network="public", frontend="libvirt"),
        )
        records.commit([], {owner: []}, {}, {})
    records.close()
    assert arguments.domain_names(None, None, "") == ["db", "web", "wiki"]
    assert arguments.domain_names(None, None, "w") == ["web", "wiki"]


def test_completion_of_domains_makes_no_records(run, tmp_path):
    assert arguments.domain_names(None, None, "") == []
    assert not (tmp_path / "run").exists()


def test_set_and_unset_reach_libvirt(run, monkeypatch):
    calls = []
    monkeypatch.setattr(libvirt_connection, "claim", lambda *a: calls.append(a))
    monkeypatch.setattr(libvirt_connection, "unclaim", lambda *a: calls.append(a))
    mac = "52:54:00:AA:00:10"
    assert run("set", "d", mac, "--network", "public", "--ip", "192.0.2.10", "--ip", "2001:DB8::10", "--no-filter").exit_code == 0
    assert run("unset", "d", mac).exit_code == 0
    nic = Vif(mac.lower(), network="public", addresses=("192.0.2.10", "2001:db8::10"), filter=False)
    assert calls == [("d", nic), ("d", mac.lower())]


def test_set_takes_vlans(run, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(libvirt_connection, "claim", lambda *a: calls.append(a))
    mac = "52:54:00:aa:00:10"
    result = run("set", "d", mac, "--network", "lan", "--vlan", "10", "--tagged", "20", "--tagged", "30-32")
    assert result.exit_code == 0, result.output
    assert calls == [("d", Vif(mac, network="lan", vlan=10, tagged=(20, 30, 31, 32)))]
    for words, message in (
        (("--tagged", "x"), "--tagged holds 'x', which is no VLAN ID"),
        (("--tagged", "30-20"), "--tagged holds '30-20'; VLAN IDs go from 1 to 4094"),
        (("--vlan", "10", "--tagged", "10"), "VLAN 10 is both untagged and tagged; name it once"),
    ):
        result = run("set", "d", mac, "--network", "lan", *words)
        assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1
    result = run("set", "d", mac, "--network", "public", "--ip", "192.0.2.10", "--vlan", "3")
    assert result.exit_code == 2 and "network public is routed and has no VLANs; drop vlan and tagged" in result.output
    assert len(calls) == 1

"""ifup and ifdown: a tap's name becomes an event, by way of domains.d."""
# ruff: noqa: E501  (tables of inputs and messages)

import os
import shutil
import subprocess
import time

import pytest
from scenario import EVERYTHING, request

from vmnet_hooks.declared import configuration
from vmnet_hooks.errors import ConfigError, InputError
from vmnet_hooks.frontends import qemu
from vmnet_hooks.model.guest import Action, Domain, Vif

MAC = "52:54:00:aa:00:10"


@pytest.fixture
def etc(tmp_path, monkeypatch):
    (tmp_path / "domains.d").mkdir()
    (tmp_path / "vmnet.toml").write_text(EVERYTHING)
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path))
    (tmp_path / "domains.d" / "web.toml").write_text(
        f'[[interfaces]]\nmac = "{MAC}"\nifname = "tap0"\nnetwork = "public"\nips = ["192.0.2.10"]\n'
        '[[interfaces]]\nifname = "tap1"\nnetwork = "lan"\n'
    )
    return tmp_path


def parse(hook: str, *argv: str):
    return qemu.parse(request([f"/x/hooks/qemu/{hook}", *argv]))


def test_ifup(etc):
    event = parse("ifup", "tap0")
    assert (event.action, event.ifname, event.frontend) == (Action.PLUG, "tap0", "qemu")
    assert event.announce, "nobody tells us when the guest runs"
    assert event.domain.name == "web" and event.domain.vifs == (Vif(MAC, "tap0"),)
    assert event.domain.partial, "the other NICs have a call of their own"
    assert event.domain.claims[0].addresses == ("192.0.2.10",)


@pytest.mark.parametrize("place", ["qemu", "qemu.d/vmnet-hooks", "qemu.d/somebody-elses", ""])
def test_who_announces_a_guest_of_libvirts(place, etc, monkeypatch):
    """libvirt's own hook, if it is ours: it is called when the guest runs."""
    script, hooks = etc / "hooks" / "run", etc / "libvirt"
    for folder in (script.parent, hooks / "qemu.d"):
        folder.mkdir(parents=True)
    script.touch()
    (etc / "ifup").symlink_to(script)
    if place:
        (hooks / place).symlink_to("/bin/true" if "else" in place else script)
    monkeypatch.setattr(qemu, "HOOKS", str(hooks))
    monkeypatch.setattr(qemu, "_is_libvirt", lambda _: True)
    assert qemu.parse(request([str(etc / "ifup"), "tap0"])).announce is (place in ("", "qemu.d/somebody-elses"))


def test_ifdown_needs_no_configuration(etc):
    (etc / "vmnet.toml").write_text("rubbish")
    event = parse("ifdown", "tap0")
    assert (event.action, event.ifname, event.domain) == (Action.UNPLUG, "tap0", Domain(""))


def test_a_tap_that_nothing_claims(etc, monkeypatch):
    """Refused, under libvirt too: whoever names this script wants the tap set up, not open."""
    for daemon in ("libvirtd", "virtqemud", "bash"):
        monkeypatch.setattr(qemu, "_is_libvirt", lambda _, daemon=daemon: daemon != "bash")
        with pytest.raises(ConfigError, match=r"domains.d: no file claims ifname 'tap7'; add an \[\[interfaces\]\] table"):
            parse("ifup", "tap7")


def test_a_tap_without_mac(etc):
    with pytest.raises(ConfigError, match=r"web.toml: interfaces\[2\].mac: missing; plain QEMU does not tell us the MAC of tap1"):
        parse("ifup", "tap1")


def test_a_tap_of_two_domains(etc):
    (etc / "domains.d" / "www.toml").write_text((etc / "domains.d" / "web.toml").read_text())
    with pytest.raises(ConfigError, match="ifname tap0 is also claimed in"):
        parse("ifup", "tap0")


@pytest.mark.parametrize("argv", [[], [""], ["a" * 16], ["a b"], ["../x"]])
@pytest.mark.parametrize("hook", ["ifup", "ifdown"])
def test_wrong_argv(hook, argv, etc):
    with pytest.raises(InputError, match="usage|is not an interface's name|is longer"):
        parse(hook, *argv)


def test_who_ran_the_script(tmp_path):
    """By its name; a process that is gone is nobody."""
    shutil.copy("/bin/sleep", tmp_path / "libvirtd")
    with subprocess.Popen([tmp_path / "libvirtd", "60"]) as daemon:
        # The kernel tells us that it runs a moment before it gives it its name.
        end = time.monotonic() + 5
        while not qemu._is_libvirt(daemon.pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert qemu._is_libvirt(daemon.pid)
        daemon.kill()
    assert not qemu._is_libvirt(daemon.pid)
    assert not qemu._is_libvirt(os.getpid())

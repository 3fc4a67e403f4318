"""Without the Debian package: `pip install .` in a venv, `make install` below a DESTDIR, the hooks of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from building import IGNORED, ROOT, clean_copy, run
from clean_root import ENV
from test_deb import HOOKS, XEN, xml

pytestmark = pytest.mark.package

# A host without any configuration: own /etc/vmnet-hooks and /run, and no network.
PRIVATE = """
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/lock
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
rm -rf /etc/vmnet-hooks
exec "$@"
"""


def privately(*argv: object, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", PRIVATE, "sh", *map(str, argv)],
        input=input,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env=ENV,
    )


# The libraries' folder of a root, over the machine's own.
INSTALLED = 'mount -t overlay overlay -o "lowerdir=$0/usr/lib:/usr/lib" /usr/lib; exec "$@"'


def assert_hook_works(*hook: object) -> None:
    """It finds its package and its libraries: it can say that a network is not declared."""
    for operation in ("prepare", "start"):
        ignored = privately(*hook, "dom1", operation, "begin", "-", input="<domain type='kvm'><name>dom1</name></domain>")
        assert ignored.returncode == 0, ignored.stdout
    refused = privately(*hook, "dom1", "start", "begin", "-", input=xml("nowhere"))
    assert refused.returncode == 2 and "nowhere" in refused.stdout, refused.stdout


def test_checkout() -> None:
    assert_hook_works(ROOT / "hooks/libvirt/qemu")


def test_make_install_without_a_compiler(tmp_path: Path) -> None:
    run(["make", "install", f"DESTDIR={tmp_path}", "PREFIX=/usr", "CC=no-compiler"], ROOT)
    assert_hook_works(tmp_path / HOOKS.lstrip("/") / "libvirt/qemu")


def test_pip_install(tmp_path: Path) -> None:
    tree, venv = clean_copy(tmp_path / "tree"), tmp_path / "venv"
    pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower().endswith("_proxy")}
    run(["/usr/bin/python3", "-m", "venv", str(venv)], tmp_path)
    run([str(venv / "bin/pip"), "install", str(tree)], tmp_path, **pip)
    shutil.rmtree(tree)
    hooks = venv / "lib/vmnet-hooks/hooks"
    assert "validate" in run([str(venv / "bin/vmnet-hook"), "--help"], tmp_path)
    for hook in ("run", "libvirt/qemu", "qemu/ifup", "qemu/ifdown", "ifupdown/vmnet", *(f"xen/{name}" for name in XEN)):
        assert os.access(hooks / hook, os.X_OK), hook
    assert_hook_works(hooks / "libvirt/qemu")
    link = tmp_path / "hooks/qemu.d/vmnet-hooks"
    link.parent.mkdir(parents=True)
    link.symlink_to(hooks / "libvirt/qemu")
    assert_hook_works(link)
    for tap in ("ifup", "ifdown"):
        unknown = privately(hooks / f"qemu/{tap}", "tap0")
        assert "missing" not in unknown.stdout and "rror: " not in unknown.stdout, unknown.stdout
    assert "Usage: vmnet-hookd" in run([str(venv / "bin/vmnet-hookd"), "--help"], tmp_path)
    units = venv / "share/doc/vmnet-hooks/examples/systemd"
    assert {path.name for path in units.iterdir()} == {path.name for path in (ROOT / "etc/systemd").iterdir()}
    for page in ("man8/vmnet-hook.8", "man8/vmnet-hookd.8", "man5/vmnet.toml.5"):
        assert (venv / "share/man" / page).read_text() == (ROOT / "man" / Path(page).name).read_text()


def test_make_install(tmp_path: Path) -> None:
    destination = tmp_path / "root"
    tree = clean_copy(tmp_path / "tree")
    run(["make", "install", f"DESTDIR={destination}", "PREFIX=/usr"], tree)
    shutil.rmtree(tree)
    hooks = destination / HOOKS.lstrip("/")
    assert not list(destination.rglob("__pycache__"))
    assert (hooks / "run").read_text().startswith(f"#!{HOOKS}/client\n")
    assert_hook_works("sh", "-ec", INSTALLED, destination, f"{HOOKS}/libvirt/qemu")
    assert os.readlink(destination / "etc/libvirt/hooks/qemu.d/vmnet-hooks") == f"{HOOKS}/libvirt/qemu"
    for name in XEN:
        link = destination / f"etc/xen/scripts/vmnet-{name}"
        assert os.readlink(link) == f"{HOOKS}/xen/{name}" and os.readlink(hooks / "xen" / name) == "../run"
    for unit in (ROOT / "etc/systemd").iterdir():
        assert (destination / "usr/lib/systemd/system" / unit.name).read_text() == unit.read_text()
    installed = {path.name for path in destination.rglob("*") if path.is_file()}
    shipped = {path.name for path in (ROOT / "vmnet_hooks").rglob("*.py") if not set(IGNORED("", path.parts)) & set(path.parts)}
    assert shipped <= installed and {"vmnet-hook", "vmnet-hookd", "vmnet-hook.8", "vmnet-hookd.8", "vmnet.toml.5"} <= installed
    assert {"vmnet.conf", "vmnet.toml"} <= installed
    # The commands, in the root that they were installed for.
    for name, said in (("vmnet-hook", "validate"), ("vmnet-hookd", "Usage: vmnet-hookd")):
        command = destination / "usr/bin" / name
        command.write_text(command.read_text().replace("/usr/lib/vmnet-hooks", str(destination / "usr/lib/vmnet-hooks")))
        done = privately(command, "--help")
        assert done.returncode == 0 and said in done.stdout, done.stdout

"""Golden plans: one folder a case.

    config.toml     the networks
    domain.xml      what libvirt hands to the hook, or
    domains.d.toml + argv   what QEMU's ifup gets: domains.d/dom1.toml, and the tap's name, or
    xen.json        what a script of Xen's gets: {script, argv, environ, name: the domain's, backend: its tree in the store}
    before.json     the host: links, and what is unlike a fresh host's (see `host`); may be left out
    first.xml       a guest that was started before (optional)
    edited.toml     the configuration that takes the place of config.toml before the plan is made (optional)
    up              there if the host's own networks were brought up before
    operation       start (the default), stop, or up or down with names
    plan.txt        the commands, as `vmnet-hook plan` prints them

After a change of what is planned, look at `git diff` of

    UPDATE_CASES=1 /usr/bin/python3 -m pytest tests/cases

The plan is made by the real engine, on the fake kernel of tests/unit; then it is carried out, and made again: nothing is left to do.
"""  # noqa: E501

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from fake_kernel import PORT_FLAGS, FakeKernel
from fake_store import FakeStore
from scenario import request

from vmnet_hooks.declared import configuration, implied
from vmnet_hooks.engine import Session, guests, host
from vmnet_hooks.frontends import libvirt, qemu, xen, xen_call
from vmnet_hooks.kernel import sysfs
from vmnet_hooks.model.objects import Address, LinkAttribute, Neighbour, Route, Rule, Sysctl
from vmnet_hooks.records.store import Store

HERE = Path(__file__).resolve().parent
CASES = (
    sorted(path.parent.name for path in HERE.glob("*/plan.txt"))
    if "UPDATE_CASES" not in os.environ
    else sorted(path.parent.name for path in HERE.glob("*/config.toml"))
)


class Case:
    def __init__(self, name: str, path: Path, monkeypatch) -> None:
        self.source, self.etc, self.run = HERE / name, path / "etc", path / "run"
        (self.etc / "domains.d").mkdir(parents=True)
        monkeypatch.setattr(configuration, "DIRECTORY", str(self.etc))
        self.configure("config.toml")
        if claims := self.text("domains.d.toml"):
            (self.etc / "domains.d" / "dom1.toml").write_text(claims)
        self.operation, *self.names = (self.text("operation") or "start").split()
        before = json.loads(self.text("before.json") or "{}")
        self.network, self.frontend = None, "libvirt"
        if self.text("xen.json"):
            self.sysfs(path / "sys", before.get("links", {}), monkeypatch)
            self.domain = self.xen_event(**json.loads(self.text("xen.json")))
        else:
            self.domain = self.event() if self.text("domain.xml") or self.text("argv") else None
        self.kernel = self.host(before)

    def text(self, name: str) -> str:
        path = self.source / name
        return path.read_text() if path.exists() else ""

    def configure(self, name: str) -> None:
        (self.etc / "vmnet.toml").write_text(self.text(name))

    def event(self, xml: str = "domain.xml"):
        if data := self.text(xml):
            return libvirt.parse(request(["hooks/libvirt/qemu", "dom1", "start", "begin", "-"], data.encode())).domain
        return qemu.parse(request(["hooks/qemu/ifup", *self.text("argv").split()])).domain

    def xen_event(self, script: str, argv: str, environ: dict, name: str, backend: dict):
        call = xen_call.read_call(script, argv.split(), environ)
        store = FakeStore({f"/local/domain/0/{environ['XENBUS_PATH']}": backend}, **{f"d{call.domid}": name})
        event = xen.event(call, store, configuration.load())
        self.network, self.frontend = event.network, "xen"
        return event.domain

    @staticmethod
    def sysfs(folder: Path, links: dict, monkeypatch) -> None:
        """Where this front end looks for bridges and their ports."""
        for link, about in links.items():
            (folder / link).mkdir(parents=True, exist_ok=True)
            if about.get("kind") == "bridge":
                (folder / link / "bridge").mkdir()
            if master := about.get("master"):
                (folder / master / "brif" / link).mkdir(parents=True)
        monkeypatch.setattr(sysfs, "ROOT", str(folder))

    def host(self, before: dict) -> FakeKernel:
        """`links`: {name: {kind, mtu, address, up, master}}; `sysctls`: {path: value}; `addresses`, `neighbours`,
        `routes`, `rules`: arguments;
        `ipv6`, `ra_links`, `rp_filter`: see compose.Host."""
        facts = {key: before[key] for key in ("ipv6", "rp_filter") if key in before}
        kernel = FakeKernel(ra_links=tuple(before.get("ra_links", ())), **facts)
        links = {"eth1": {"up": True}, "br0": {"kind": "bridge", "up": True}, **before.get("links", {})}
        domains = ([self.domain] if self.domain else []) + ([self.event("first.xml")] if self.text("first.xml") else [])
        for vif in (vif for domain in domains for vif in domain.vifs):
            links.setdefault(vif.ifname, {"kind": "tun"})
        for name, link in links.items():
            master = link.pop("master", "")
            kernel.add_link(name, **link)
            if master:
                kernel.put(LinkAttribute(name, "master", master), *(LinkAttribute(name, flag, "off") for flag in PORT_FLAGS))
        kernel.put(*(Sysctl(path, value) for path, value in before.get("sysctls", {}).items()))
        kernel.put(*(Address(*fields) for fields in before.get("addresses", ())))
        kernel.put(*(Neighbour(*fields) for fields in before.get("neighbours", ())))
        kernel.put(*(Route(*fields) for fields in before.get("routes", ())), *(Rule(*f) for f in before.get("rules", ())))
        return kernel

    def session(self) -> Session:
        declared = configuration.load()
        if self.network:
            declared = declared.plus(self.network, implied(self.network))
        return Session(declared, self.kernel, Store(str(self.run)))

    def plan(self) -> list:
        with closing(self.session()) as session:
            if self.operation in ("up", "down"):
                return list((host.plan_up if self.operation == "up" else host.plan_down)(session, self.names))
            if self.operation == "stop":
                return list(guests.plan_unplug(session, self.domain))
            return list(guests.plan_plug(session, self.domain, self.frontend))

    def carry_out(self, operation: str, domain) -> None:
        with closing(self.session()) as session:
            if operation in ("up", "down"):
                (host.up if operation == "up" else host.down)(session, self.names)
            elif operation == "start":
                guests.plug(session, domain, self.frontend)
            else:
                guests.unplug(session, domain)

    def prepare(self) -> None:
        if (self.source / "up").exists():
            self.carry_out("up", None)
        if self.text("first.xml"):
            self.carry_out("start", self.event("first.xml"))
        if self.domain and (self.operation == "stop" or self.text("edited.toml")):
            self.carry_out("start", self.domain)
        if self.text("edited.toml"):
            self.configure("edited.toml")


@pytest.mark.parametrize("name", CASES)
def test_case(name, tmp_path, monkeypatch):
    case = Case(name, tmp_path, monkeypatch)
    case.prepare()
    printed = "".join(f"{change}\n" for change in case.plan())
    if os.environ.get("UPDATE_CASES") == "1":
        (case.source / "plan.txt").write_text(printed)
    assert printed == case.text("plan.txt")
    # A plan is a script, and it is all that there is to do.
    assert not subprocess.run(["sh", "-n"], input=printed, text=True, capture_output=True).stderr
    case.carry_out(case.operation, case.domain)
    assert case.plan() == []


def test_there_are_cases():
    assert len(CASES) >= 12

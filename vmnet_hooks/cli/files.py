"""Commands about configuration files: validate, import."""

import os
from contextlib import closing
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError, InputError, one_line
from ..model.declaration import DIRECTORY
from . import problem
from .arguments import JSON
from .output import as_json

if TYPE_CHECKING:
    from ..importing.draft import Block
    from ..model.declaration import Config
    from ..model.guest import Claim

INTERFACES = "/etc/network/interfaces"


@click.command()
@click.option(
    "--config-dir", default=DIRECTORY, show_default=True, type=click.Path(file_okay=False), help="Check this directory."
)
@JSON
def validate(config_dir: str, to_json: bool) -> None:
    """Check every configuration file, those in domains.d included."""
    # Not needed for completion.
    from ..declared import configuration

    if config_dir != DIRECTORY and not os.path.isdir(config_dir):
        raise InputError(f"--config-dir: {one_line(config_dir)}: no such directory")
    declared = configuration.survey(config_dir)
    errors: list[InputError] = list(declared.errors)
    domains = [os.path.basename(path).removesuffix(".toml") for path in configuration.toml_files(f"{config_dir}/domains.d")]
    seen: dict[tuple[str, str], str] = {}
    for name in domains:
        try:
            claims = configuration.claims(declared, name)
        except ConfigError as error:
            errors += [error, *error.more]
            continue
        errors += [wrong for claim in claims if (wrong := _wrong(name, claim, declared, seen)) and wrong not in errors]
    wires = [network for network in declared.networks.values() if network.mode.ends(network)]
    networks = [name for name, network in declared.networks.items() if network not in wires]
    if to_json:
        there = {
            "networks": networks,
            "parts": [*declared.parts, *(wire.id for wire in wires), *declared.forwards, *declared.ddns],
            "domains": domains,
        }
        as_json({**there, "errors": list(dict.fromkeys(map(str, errors)))})
    elif not errors:
        parts = f", {len(declared.parts)} host parts" if declared.parts else ""
        parts += f", {len(wires)} wires" if wires else ""
        parts += f", {len(declared.forwards)} forwarded ports" if declared.forwards else ""
        parts += f", {len(declared.ddns)} DNS zones" if declared.ddns else ""
        click.echo(f"ok: {len(networks)} networks{parts}, {len(domains)} domains")
    else:
        for line in dict.fromkeys(map(str, errors)):
            problem(line)
    if errors:
        raise SystemExit(InputError.exit_code)


def _wrong(domain: str, claim: "Claim", declared: "Config", seen: dict[tuple[str, str], str]) -> InputError | None:
    """Return the mistake in a claim of a domain; None if there is none. `seen` is where each address of each network is given,
    and grows."""
    # Not needed for completion.
    from ..declared import compose
    from ..model.guest import Vif

    try:
        network = declared.network(claim.network, f"{claim.source}.network")
        vif = Vif(claim.mac or "02:00:00:00:00:01", claim.ifname).claimed(claim)
        for address in compose.held(vif, network):
            if other := seen.get((network.name, address)):
                raise InputError(f"{claim.source}: {address} is also given in {other}; change one")
            seen[network.name, address] = claim.source
        compose.bind_nic(vif, network, declared, claim.source)
        compose.by_wire(domain, vif, declared, claim)
    except InputError as error:
        return error
    return None


def _of_libvirt() -> tuple[list["Block"], list[str]]:
    """Return the drafts of libvirt's networks, and what the file begins with."""
    # Not needed for completion.
    from ..engine import edge
    from ..frontends import libvirt_connection
    from ..importing.libvirt_networks import LibvirtNetwork, convert

    with closing(edge()()) as kernel:
        way_out = next((route.link for route in kernel.default_routes()), "")
    blocks = convert([LibvirtNetwork(*found) for found in libvirt_connection.networks()], way_out)
    made = [block.draft.options["bridge"] for block in blocks if block.draft and block.draft.options["mode"] == "virtual"]
    header = ["What libvirt's networks are, by `vmnet-hook import --libvirt`."]
    if made:
        header += [
            "A virtual network takes the place of libvirt's: stop that first, and keep it from starting (virsh net-destroy NAME;",
            "virsh net-autostart NAME --disable). Guests that name it need no edit if libvirt's network of that name becomes one",
            "that uses the bridge: <network><name>NAME</name><forward mode='bridge'/><bridge name='BRIDGE'/></network>.",
        ]
    return blocks, header


@click.command("import")
@click.option(
    "--interfaces",
    "path",
    metavar="FILE",
    help=f"Read stanzas of interfaces(5) from here.  [default: {INTERFACES}]",
    type=click.Path(dir_okay=False),
)
@click.option("--live", is_flag=True, help="Read the kernel's links, addresses and routes instead.")
@click.option("--libvirt", "of_libvirt", is_flag=True, help="Read the networks that libvirt has defined instead.")
@click.option(
    "--dot", metavar="FILE", help="Read wires from a topology in DOT instead, as PTM has it.", type=click.Path(dir_okay=False)
)
def import_(path: str | None, live: bool, of_libvirt: bool, dot: str | None) -> None:
    """Print, as TOML of vmnet.toml(5), the host's networks as ifupdown's files, the kernel or libvirt have them, or wires
    between guests.

    What can't be carried over is printed as a comment with the reason. Nothing is changed.
    """
    # Not needed for completion.
    from ..declared import SECTIONS
    from ..importing import interfaces, stanzas
    from ..importing.draft import settle, toml
    from ..importing.live import convert
    from ..kernel import import_facts

    if (live or of_libvirt) and path:
        other = "--live reads the kernel" if live else "--libvirt asks libvirt"
        raise InputError(f"{other}, and no file; leave --interfaces out")
    if live and of_libvirt:
        raise InputError("--live reads the kernel, and --libvirt asks libvirt; leave one out")
    if dot and (path or live or of_libvirt):
        raise InputError("--dot reads wires, and nothing else; leave the other option out")
    path = path or INTERFACES
    if dot:
        from ..importing import dot as topology  # Few have one.

        blocks = topology.convert(dot, topology.read(dot))
        header = [
            f"The wires of {one_line(dot)}, by `vmnet-hook import`.",
            "NICs of guests are counted from 0: swp1 and eth1 are the second one.",
        ]
    elif of_libvirt:
        blocks, header = _of_libvirt()
    elif live:
        blocks = convert(import_facts.read())
        header = [
            "The kernel's links as they are now, by `vmnet-hook import --live`.",
            "`vmnet-hook up` refuses links that another program made: at the next boot, no other program may make them.",
        ]
    else:
        blocks = stanzas.convert(interfaces.read(path))
        header = [f"What {one_line(path)} declares, by `vmnet-hook import`."]
    settle(blocks)
    if made := [
        block.draft.name
        for block in blocks
        if not (live or of_libvirt or dot) and block.draft and SECTIONS[block.draft.section].is_link
    ]:
        header += [
            f"Remove the stanzas of {one_line(', '.join(made))} there; those of other links stay. `vmnet-hook up` refuses",
            "links that ifupdown made: at the next boot, vmnet-hooks makes them.",
        ]
    click.echo(toml(header, blocks), nl=False)

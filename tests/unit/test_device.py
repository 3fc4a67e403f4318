"""Links that we make, as the kernel is asked for them."""

from __future__ import annotations

import pytest

from vmnet_hooks.kernel.objects import device
from vmnet_hooks.model.objects import Device
from vmnet_hooks.model.resource import ALIAS


class Asked:
    """Stands in for pyroute2: takes note of what is asked."""

    def __init__(self):
        self.added, self.set = {}, {}

    def link(self, verb, **words):
        if verb == "add":
            self.added = words
        elif verb == "set":
            self.set = words
        return [{"index": 7}]


def made(kind: str) -> dict:
    asked = Asked()
    device.create(asked, Device("x0", kind, "", (), ()), 3 if kind in ("vlan", "macvlan") else 0)
    assert asked.set == {"index": 7, "ifalias": ALIAS}
    return asked.added


@pytest.mark.parametrize("kind", ["bridge", "dummy", "macvlan"])
def test_a_link_has_an_address_when_it_appears(kind):
    """udev would give it one, whenever it gets to it, else."""
    addresses = [made(kind)["address"] for _ in range(2)]
    assert len(set(addresses)) == 2 and all(len(address) == 17 and address.startswith("02:") for address in addresses)


@pytest.mark.parametrize("kind", ["bond", "vlan"])
def test_a_link_that_takes_anothers_address(kind):
    assert "address" not in made(kind)

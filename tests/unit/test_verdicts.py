"""What is read of a rule of another firewall."""

import pytest

from vmnet_hooks.kernel import verdicts


@pytest.mark.parametrize(
    ("value", "name"),
    [(b"br0\0", "br0"), (b"br0".ljust(16, b"\0"), "br0"), (b"eth10\0", "eth10"), (b"tap", "tap*"), (b"tap-", "tap-*")],
)
def test_names_of_links(value, name):
    """iptables-nft compares with a name and its NUL, four bytes for br0: as long as an index."""
    assert verdicts._name(value) == name

"""The lab's machines: what a test ends is its own."""

from __future__ import annotations

from lab.nodes import Node


def test_a_node_that_is_closed_twice_ends_nobody_else():
    """The kernel gives the inode number of a namespace that is gone to the next one."""
    closed = Node("closed")
    closed.close()
    with Node("other") as other:
        closed.netns = other.netns
        closed.close()
        assert other.run("ip link show lo").returncode == 0
        assert other.processes()

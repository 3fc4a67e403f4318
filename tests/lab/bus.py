"""A system bus of D-Bus in a node, for programs that can't do without one."""

from __future__ import annotations

from .nodes import Node
from .routed import eventually

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"""


class SystemBus:
    """dbus-daemon on a node, for as long as the block lasts."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __enter__(self) -> SystemBus:
        self.node.write("/run/bus.conf", CONFIG)
        self.node.sh("mkdir -p /run/dbus")
        self.process = self.node.popen(["dbus-daemon", "--config-file=/run/bus.conf", "--nofork"], stdout=-3, stderr=-3)
        assert eventually(lambda: self.node.path("/run/dbus/system_bus_socket").exists())
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.terminate()
        self.process.wait(20)

"""What crossed a wire, as tcpdump's text: `with Capture(node, "eth0", "arp") as seen: …`, then `seen.lines`."""

from __future__ import annotations

import re
import signal
import time

from .nodes import Node


class Capture:
    """tcpdump on one interface while the block runs. `lines` are complete after the block."""

    def __init__(self, node: Node, ifname: str, expression: str = ""):
        self.argv = [
            "tcpdump",
            "-Z",
            "root",
            "-l",
            "-n",
            "-e",
            "-t",
            "-v",
            "--immediate-mode",
            # A slot of the ring is as large as this, and by default there are 32: a burst of more was lost.
            "-s",
            "9216",
            "-B",
            "8192",
            "-i",
            ifname,
            *expression.split(),
        ]
        self.node = node
        self.lines: list[str] = []

    def __enter__(self) -> Capture:
        self.process = self.node.popen(self.argv, stdout=-1, stderr=-1)
        # It says "listening on" when its socket is bound; what is sent before that is lost.
        said = ""
        for line in self.process.stderr:
            said += line
            if "listening on" in line:
                return self
        raise AssertionError(
            f"tcpdump on {self.node.name} did not start: {' '.join(self.argv)}: {said}status {self.process.wait()}"
        )

    def __exit__(self, *_exc: object) -> None:
        time.sleep(0.15)  # the last packet is still on its way to tcpdump
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=10)
        # With -v a packet takes several lines, the later ones indented: one line a packet.
        self.lines = [line for line in re.sub(r"\n[ \t]+", " ", output).splitlines() if line]

    @staticmethod
    def pause(seconds: float) -> None:
        """Give an answer that must not come the time in which it would have come."""
        time.sleep(seconds)

    def having(self, *patterns: str) -> list[str]:
        """The packets that match each of the regular expressions."""
        return [line for line in self.lines if all(re.search(pattern, line) for pattern in patterns)]

    def __str__(self) -> str:
        return "\n".join(self.lines) or "(nothing)"

"""vmnet-hookd on a node: `with Agent(node): …`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from vmnet_hooks.hook import client

from .nodes import ENV, IN_VENV, ROOT, Node

ENVIRONMENT = {**ENV, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
COMMAND = (sys.executable if IN_VENV else "/usr/bin/python3", "-m", "vmnet_hooks.agent")


class Agent:
    """The agent, for as long as the block lasts. What it says to those who follow it is in `log`."""

    def __init__(self, node: Node):
        self.node = node
        self.output = tempfile.TemporaryFile("w+")
        self.follower, self.said = None, ""

    def start(self) -> Agent:
        socket = self.node.path("/run/vmnet-hooks/agent.sock")
        socket.unlink(missing_ok=True)
        words = ["env", *(f"{key}={value}" for key, value in ENVIRONMENT.items()), *COMMAND]
        self.process = self.node.popen(words, stdout=self.output, stderr=subprocess.STDOUT)
        end = time.monotonic() + 20
        while not (follower := client.connected(str(socket))):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{self.node.name}: the agent did not start\n{self.log}")
            time.sleep(0.02)
        follower.sendall(client.head("agent/monitor"))
        follower.settimeout(0)
        self.follower = follower
        return self

    __enter__ = start

    def __exit__(self, failed: object, *_exc: object) -> None:
        # One that was stopped does not end; what failed is news, not that.
        self.stop(signal.SIGKILL if failed else signal.SIGTERM)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End it; raises AssertionError if it does not end by itself."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.node.name}: the agent does not end\n{self.log}") from None

    @property
    def log(self) -> str:
        """What it has written so far."""
        while self.follower:
            try:
                lines = self.follower.recv(1 << 16)
            except BlockingIOError:
                break
            self.said += lines.decode()
            if not lines:
                self.follower = None
        # Its own place in the file is not to be moved.
        return self.said + os.pread(self.output.fileno(), 1 << 20, 0).decode()

    @property
    def errors(self) -> list[str]:
        """What it had to complain about."""
        return [line for line in self.log.splitlines() if "Traceback" in line or re.match(r"[0-9:]+ error:", line)]

    def counter(self, name: str) -> float:
        """The sum of a counter over its labels, as it was last written for Prometheus."""
        text = self.node.path("/run/vmnet-hookd/metrics.prom").read_text()
        return sum(float(value) for value in re.findall(rf"^vmnet_{name}_total(?:\{{.*\}})? ([0-9.e+]+)$", text, re.M))

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = open(f"/proc/{self.process.pid}/stat").read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

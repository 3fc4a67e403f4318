"""BIND's named in a node, with zones that are updated by a TSIG key; and what it answers."""

from __future__ import annotations

import subprocess

from .nodes import Node
from .routed import eventually

FOLDER = "/run/named"
CONFIG = """
include "{folder}/key";
options {{
    directory "{folder}"; pid-file "{folder}/pid"; session-keyfile "{folder}/session.key";
    listen-on port {port} {{ {address}; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; notify no;
}};
controls {{ }};
"""
ZONE = 'zone "{zone}" {{ type primary; file "{folder}/{zone}"; allow-update {{ key {key}; }}; }};\n'
CONTENT = "$TTL 300\n@ SOA ns.lab.example. root.lab.example. 1 60 60 60 60\n@ NS ns.lab.example.\n"


class Named:
    """named, from `start` to `stop`: in a folder of its own, at one address of the node. Its zones outlast it."""

    def __init__(self, node: Node, address: str, *zones: str, port: int = 53, key: str = "vmnet", folder: str = FOLDER) -> None:
        self.node, self.address, self.port, self.folder = node, address, port, folder
        self.key = node.run(["tsig-keygen", key]).stdout
        node.write(f"{self.folder}/key", self.key)
        text = CONFIG.format(folder=self.folder, address=address, port=port)
        for zone in zones:
            node.write(f"{self.folder}/{zone}", CONTENT + ("ns A 192.0.2.53\n" if zone == "lab.example" else ""))
            text += ZONE.format(folder=self.folder, zone=zone, key=key)
        node.write(f"{self.folder}/named.conf", text)
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def tsig(self) -> str:
        """The key, as dig takes it."""
        name, secret = (part.strip('"') for part in (self.key.split()[1], self.key.split()[6]))
        return f"hmac-sha256:{name}:{secret.rstrip(';').strip(chr(34))}"

    def start(self) -> None:
        words = ["named", "-g", "-u", "root", "-c", f"{self.folder}/named.conf"]
        self.process = self.node.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert eventually(lambda: "SOA" in self.asked("lab.example", "SOA", whole=True), 20), "named does not answer"

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        self.process.wait(10)

    def asked(self, name: str, kind: str = "A", whole: bool = False) -> str:
        """What named has of a name: its values, sorted, with a blank between."""
        words = ["dig", f"@{self.address}", "-p", self.port, "+time=1", "+tries=1", "+norecurse", name, kind]
        if whole:
            return self.node.run(words, check=False).stdout
        return " ".join(sorted(self.node.run([*words, "+short"], check=False).stdout.split()))

    def update(self, *lines: str) -> None:
        """Update a zone as an admin does."""
        script = "\n".join((f"server {self.address} {self.port}", *lines, "send", ""))
        self.node.run(["nsupdate", "-k", f"{self.folder}/key"], input=script)

"""Metrics for Prometheus: a file in its text format, which the textfile collector of node_exporter reads.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import os
import threading
from collections.abc import Mapping

PATH = "/run/vmnet-hookd/metrics.prom"
"""Not in the directory of the records, which only root can read."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the histogram's buckets, in seconds."""

HELP = {
    "vmnet_requests_total": "Hook calls served, by front end, operation and exit status.",
    "vmnet_request_seconds": "Time to serve a hook call.",
    "vmnet_refused_total": "Connections refused, by reason; the hook then does its work itself.",
    "vmnet_healed_total": "Objects restored after another program removed or changed them.",
    "vmnet_heal_failed_total": "Attempts to restore an object that failed.",
    "vmnet_requests_answered_total": "Requests by DHCP, and router solicitations, answered.",
    "vmnet_solicitations_answered_total": "Neighbour solicitations answered on behalf of a guest's peers.",
    "vmnet_names_failed_total": "Attempts to register or remove a name at a DNS server that failed.",
    "vmnet_arrivals_total": "Guests cut over after an incoming live migration.",
    "vmnet_hotplugs_total": "NICs set up or taken down on a hot-plug event of libvirt.",
    "vmnet_vifs": "Guests' NICs that are set up, by network and phase.",
    "vmnet_start_time_seconds": "Start time of the agent, in seconds since the epoch.",
}


class Metrics:
    """Counters by name and labels, and the histogram of served calls. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], float] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0
        self._written = ""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter vmnet_NAME_total."""
        key = (f"vmnet_{name}_total", _labels(labels))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + amount

    def total(self, name: str) -> float:
        """Return the sum of a counter over all labels."""
        with self._lock:
            return sum(value for (key, _), value in self._counters.items() if key == f"vmnet_{name}_total")

    def took(self, seconds: float) -> None:
        """Add a served call to the histogram."""
        with self._lock:
            self._buckets[sum(seconds > limit for limit in BUCKETS)] += 1
            self._sum += seconds

    def text(self, gauges: Mapping[str, Mapping[str, float]]) -> str:
        """Return the content of the file. `gauges` are values by name and labels."""
        with self._lock:
            series: dict[str, list[str]] = {}
            for (name, labels), value in sorted(self._counters.items()):
                series.setdefault(name, []).append(f"{name}{labels} {value:g}")
            kinds = {name: "counter" for name in series}
            for name, values in gauges.items():
                series[name] = [f"{name}{labels} {value:.15g}" for labels, value in sorted(values.items())]
                kinds[name] = "gauge"
            name, so_far = "vmnet_request_seconds", 0
            kinds[name], series[name] = "histogram", []
            for limit, number in zip((*BUCKETS, "+Inf"), self._buckets, strict=True):
                so_far += number
                series[name].append(f'{name}_bucket{{le="{limit}"}} {so_far}')
            series[name] += [f"{name}_sum {self._sum:.6f}", f"{name}_count {so_far}"]
        lines = []
        for name, rows in series.items():
            lines += [f"# HELP {name} {HELP[name]}"] if name in HELP else []
            lines += [f"# TYPE {name} {kinds[name]}", *rows]
        return "\n".join(lines) + "\n"

    def write(self, text: str) -> None:
        """Replace the file, if anything has changed. Raises OSError."""
        if text != self._written:
            folder = os.path.dirname(PATH)
            if not os.path.isdir(folder):
                os.makedirs(folder)
                os.chmod(folder, 0o755)
            with open(f"{PATH}.new", "w") as file:
                file.write(text)
            # node_exporter does not run as root.
            os.chmod(f"{PATH}.new", 0o644)
            os.replace(f"{PATH}.new", PATH)
            self._written = text


def label(**labels: str) -> str:
    """Return labels as they stand behind the name of a metric."""
    return _labels(labels)


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return "{" + ",".join(f'{k}="{v}"' for k, v in sorted(escaped.items())) + "}" if labels else ""

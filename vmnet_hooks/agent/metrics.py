"""Counters for Prometheus, in its text format, in a file that node_exporter's textfile collector reads.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import os
import threading
from collections.abc import Mapping

PATH = "/run/vmnet-hookd/metrics.prom"
"""Not beside the records: those are root's alone."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds."""

HELP = {
    "vmnet_requests_total": "Calls of hooks served, by front end, operation and exit status.",
    "vmnet_request_seconds": "How long they took in the agent.",
    "vmnet_refused_total": "Connections that were refused, by reason: those hooks did their work by themselves.",
    "vmnet_healed_total": "Objects put back that somebody else had removed or changed.",
    "vmnet_heal_failed_total": "Objects that could not be put back yet.",
    "vmnet_solicitations_answered_total": "Neighbour solicitations of guests answered for their peers.",
    "vmnet_arrivals_total": "Guests that came in by live migration and were cut over.",
    "vmnet_hotplugs_total": "NICs set up or taken down because libvirt said that they came or went.",
    "vmnet_vifs": "NICs of guests that are set up, by network and phase.",
    "vmnet_start_time_seconds": "When the agent was started, since the epoch.",
}


class Metrics:
    """Counters by name and labels, gauges, and one histogram."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], float] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0
        self._written = ""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to the counter vmnet_NAME_total."""
        key = (f"vmnet_{name}_total", _labels(labels))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + amount

    def total(self, name: str) -> float:
        """A counter's sum over all labels."""
        with self._lock:
            return sum(value for (key, _), value in self._counters.items() if key == f"vmnet_{name}_total")

    def took(self, seconds: float) -> None:
        """One more call was served, in that time."""
        with self._lock:
            self._buckets[sum(seconds > limit for limit in BUCKETS)] += 1
            self._sum += seconds

    def text(self, gauges: Mapping[str, Mapping[str, float]]) -> str:
        """All of it. `gauges` are values by name and labels."""
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
        """Writes the file in one go, if anything changed. Raises OSError."""
        if text != self._written:
            folder = os.path.dirname(PATH)
            if not os.path.isdir(folder):
                os.makedirs(folder)
                os.chmod(folder, 0o755)
            with open(f"{PATH}.new", "w") as file:
                file.write(text)
            # node_exporter is not root.
            os.chmod(f"{PATH}.new", 0o644)
            os.replace(f"{PATH}.new", PATH)
            self._written = text


def label(**labels: str) -> str:
    """Labels as they are written after a name."""
    return _labels(labels)


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return "{" + ",".join(f'{k}="{v}"' for k, v in sorted(escaped.items())) + "}" if labels else ""

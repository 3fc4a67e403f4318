"""The gap that a live migration leaves, as the tests of live migration between two real libvirt hosts measure it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from bench.hosts import ROOT, CommandFailed, Product
from bench.report import Effort, Row, unknown


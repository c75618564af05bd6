"""Processes that are measured from outside, and what they ran on."""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from noisy_student.core.errors import UserError

ROOT = Path(__file__).parent.parent
HARDWARE = """
import torch
from noisy_student.models.device import processor
print(processor(), torch.cuda.get_device_name() if torch.cuda.is_available() else "", sep="\\n")
"""


class Measured(NamedTuple):
    """One run of a process."""

    speed: float  # images a second, or runs a second
    peak_mb: float  # resident memory, in 10^6 bytes
    output: str

    def figures(self) -> Any:
        """The JSON in its last line."""
        return json.loads(self.output.splitlines()[-1])


def run(folder: Path, *line: str, environment: dict[str, str] | None = None) -> Measured:
    """Run a command line in `folder`, by default in the environment of this process.

    Raises `UserError` with the end of what it said when it fails.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = output.strip() or f"status {process.returncode}"
        raise UserError(f"`{' '.join(line[1:5])}` failed: {said.splitlines()[-1]}")
    return Measured(1 / (time.perf_counter() - started), usage.ru_maxrss * 1024 / 1e6, output)


@cache
def hardware() -> str:
    """Asked in another process: a process has at least the memory of the one that starts it, and torch takes much."""
    processor, gpu = run(ROOT, sys.executable, "-c", HARDWARE).output.splitlines()[-2:]
    return ", ".join(filter(None, (processor.strip(), f"{os.cpu_count()} cores", gpu.strip())))


def pipeline() -> tuple[dict[str, Any], dict[str, Any]]:
    """dvc.yaml and params.yaml."""
    return tuple(yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "params.yaml"))

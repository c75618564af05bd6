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
# A process has at least the peak memory of the one that starts it. So a small one starts those that are measured.
START = """
import os, sys
pid = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
os.write(int(sys.argv[1]), str(usage.ru_maxrss).encode())
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"""
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
    reading, writing = os.pipe()
    starter = (sys.executable, "-I", "-S", "-c", START, str(writing))
    started = time.perf_counter()
    done = subprocess.run(
        (*starter, *line),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[writing],
    )
    seconds = time.perf_counter() - started
    os.close(writing)
    with os.fdopen(reading) as pipe:
        kilobytes = int(pipe.read() or 0)
    if done.returncode:
        said = done.stdout.strip() or f"status {done.returncode}"
        raise UserError(f"`{' '.join(line[1:5])}` failed: {said.splitlines()[-1]}")
    return Measured(1 / seconds, kilobytes * 1024 / 1e6, done.stdout)


@cache
def hardware() -> str:
    """The processor and the GPU, asked in another process, since torch takes much memory."""
    processor, gpu = run(ROOT, sys.executable, "-c", HARDWARE).output.splitlines()[-2:]
    return ", ".join(filter(None, (processor.strip(), f"{os.cpu_count()} cores", gpu.strip())))


def pipeline() -> tuple[dict[str, Any], dict[str, Any]]:
    """dvc.yaml and params.yaml."""
    return tuple(yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "params.yaml"))

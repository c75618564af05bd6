"""Importing the library changes nothing of the process, but how torch's threads wait."""

import subprocess
import sys

from noisy_student.core.provenance import ROOT

CODE = """
import gc, importlib, pathlib, signal
from PIL import Image

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return Image.MAX_IMAGE_PIXELS, gc.get_freeze_count(), *handlers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
before = state()
for path in sorted(pathlib.Path("noisy_student").rglob("*.py")):
    importlib.import_module(str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"))
assert state() == before, (before, state())
assert before[0]
"""


def test_importing_the_library_leaves_pillow_the_garbage_collector_and_signals_alone():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

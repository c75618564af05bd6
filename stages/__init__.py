"""One module for each stage of the pipeline. Nothing in this file decides what a stage makes."""

import os
import signal
import sys

if sys.argv[0] == "-m":  # `python -m stages.…` is looking for its module: until `main` runs, Ctrl-C ends it quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # before pandas: Arrow's own pool keeps freed memory

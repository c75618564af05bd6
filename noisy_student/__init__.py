"""Self-training with noisy students: the library that the stages call (Xie et al. 2019, arXiv 1911.04252)."""

import os

# Threads that wait for the next operation go on looking for it for some microseconds, and then sleep. Without the
# looking small networks train at half the speed; with OpenMP's own patience, a thousand times as long, they take the
# cores from whatever else runs on the machine. Read once, when torch is first imported, so it stands before all else.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the OpenMP that torch has on macOS

from noisy_student.core import signals as signals  # notes when this process began and who started it

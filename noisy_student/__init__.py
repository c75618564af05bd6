"""Self-training with noisy students: the library that the stages call (Xie et al. 2019, arXiv 1911.04252)."""

import os

# Threads that wait for the next operation spin for some microseconds and then sleep. Without spinning, small networks
# train at half the speed. OpenMP's default spins a thousand times as long, which takes the cores from other programs.
# The values are read once, when torch is first imported, so they are set before all other imports.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the OpenMP that torch has on macOS

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are of connections that ranks close, see launch.py

from noisy_student.core import signals as signals  # notes when this process began and who started it

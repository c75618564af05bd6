"""Self-training with noisy students: the library that the stages call (Xie et al. 2019, arXiv 1911.04252)."""

import os

# Threads that wait sleep instead of spinning: spinning ones take the cores from whatever else runs on the machine.
# OpenMP reads this once, when torch is first imported, so it stands here, before all else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from noisy_student import stopping as stopping  # notes when this process began and who started it

"""Studies and measurements, each a command whose table is committed beside it."""

import noisy_student as noisy_student  # before torch, for it says how torch's threads wait

"""What a person runs by hand."""

import noisy_student as noisy_student  # before torch, for it says how torch's threads wait

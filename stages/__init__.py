"""A recipe for each stage of the pipeline. What stands here decides nothing of what a stage makes."""

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # before pandas: Arrow's own keeps what was freed

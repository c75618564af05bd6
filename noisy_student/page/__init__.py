"""One page about a run: the answer, and the pictures that show why."""

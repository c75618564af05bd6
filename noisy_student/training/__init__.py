"""The one training loop, and what a run of it is made of."""

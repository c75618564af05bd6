"""The training loop, which all models share, and its parts."""

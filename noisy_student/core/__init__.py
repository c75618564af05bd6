"""Tools that every other folder uses. Nothing here knows of images or models."""

"""What all rooms use, and what knows nothing of images or models: config, errors, files, randomness, metrics."""

"""Input noise: what becomes of images before a student sees them."""

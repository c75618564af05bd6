"""Input noise: what happens to images before a student sees them."""

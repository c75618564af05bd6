"""Networks, and what they say of images without noise."""

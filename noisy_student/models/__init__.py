"""Networks, and their predictions without noise."""

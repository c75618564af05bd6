"""From a teacher's logits to pseudo-labels."""

"""What stages hand to one another on the disk: splits of images, logits and pseudo-labels."""

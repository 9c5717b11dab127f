"""Training: building the parts, the loop, its state."""

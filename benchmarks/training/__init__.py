"""The training step, and what stage training saves."""

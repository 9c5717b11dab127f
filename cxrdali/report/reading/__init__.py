"""The page of new images that a run read."""

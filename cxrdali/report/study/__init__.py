"""The page of a whole study."""

"""The page of heat maps."""

"""The page on runs and their evaluations."""

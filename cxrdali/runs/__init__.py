"""A run's settings, its folder, and reading it back."""

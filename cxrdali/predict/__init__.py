"""A run's weights on a split: predictions and heat maps."""

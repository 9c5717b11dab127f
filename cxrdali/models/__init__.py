"""Backbone, head, losses, weights, and prediction from images."""

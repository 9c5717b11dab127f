"""Scores from arrays; NumPy only."""

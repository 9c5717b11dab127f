"""Trackers: a file for each, found by its name."""

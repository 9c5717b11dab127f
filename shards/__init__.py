"""From a release on disk to a packed dataset, and the reading side of it. No torch, no DALI."""

__version__ = "0.1.0"

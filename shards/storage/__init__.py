"""Files on this disk and in buckets, and text tables."""

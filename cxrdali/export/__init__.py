"""A run in the formats of other programs, and what a reader must know of it."""

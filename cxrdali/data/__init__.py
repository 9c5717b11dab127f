"""Packed dataset -> rows of a split -> order -> batches of pixels."""

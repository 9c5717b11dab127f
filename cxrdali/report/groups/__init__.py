"""Scores of groups of images, on the pages of trainings and of comparisons."""

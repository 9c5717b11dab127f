"""A run on a page of this machine: drop a file, see what it says."""

"""Releases that a short TOML describes: the shipped ones beside this file, a user's own by --release FILE."""

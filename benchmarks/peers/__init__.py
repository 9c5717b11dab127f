"""Images per second of the loader beside its peers."""

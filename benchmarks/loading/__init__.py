"""Images per second of the loader beside other loaders."""

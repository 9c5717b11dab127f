"""Reading a packed dataset."""

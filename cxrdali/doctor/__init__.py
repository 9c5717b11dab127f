"""Whether this machine is ready, and how to fix it."""

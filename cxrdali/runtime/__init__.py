"""This process: device, cores and memory, and the processes beside it."""

"""Functions from prediction tables to a prediction table."""

"""A run at home and in other hospitals, and runs by where they were trained, as pages."""

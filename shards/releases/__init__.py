"""A release on disk -> images and label tables; one file per release."""

"""Self-contained pages: sources -> sections -> page."""

"""Looking at a packed dataset: counts -> words and tables -> terminal or page."""

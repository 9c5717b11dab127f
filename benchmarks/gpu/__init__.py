"""What only a GPU can settle, in one command: sections that run apart, facts as JSON lines, one page."""

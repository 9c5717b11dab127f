"""Results as tables, plots and docs pages."""

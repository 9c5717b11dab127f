"""Predictions and labels -> scores with intervals; several runs side by side."""

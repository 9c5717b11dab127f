"""The effects of both papers on synthetic data: paired replicates, each with its own release and held-out images."""

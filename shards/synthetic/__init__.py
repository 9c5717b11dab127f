"""A synthetic MIMIC-CXR-JPG release for demos, tests and benchmarks: plan -> pictures -> tables."""

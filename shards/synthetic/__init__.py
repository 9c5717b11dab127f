"""A synthetic MIMIC-CXR-JPG release for demos, tests and benchmarks: plan -> pictures -> tables."""

from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import SyntheticSummary, draw_study, write_release

__all__ = ["SyntheticOptions", "SyntheticSummary", "draw_study", "write_release"]

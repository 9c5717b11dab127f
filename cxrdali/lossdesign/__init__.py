"""The loss-design paper's whole study (Sulake, arXiv 2603.02294, 2026): roles -> plan."""

RECORD = "loss-design.json"  # in a study's folder: its models, what they are there for, its tables and steps
REFERENCE = "ld-ldam-drw"  # its network is the one that the losses share, its loss the one that the backbones share

"""The stage-training paper's whole flow (its Figure 3): steps -> plan -> estimate."""

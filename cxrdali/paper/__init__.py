"""The stage-training paper's whole flow: steps -> flow -> plan -> estimate; all but plan serve other flows too."""

# What the paper trained for its final result, who makes the ensemble, and whose views are learnt
MODELS = ("model0", "model2", "model3", "model5", "model6", "model7")
MEMBERS = ("model3", "model5", "model6", "model7")
VIEWS_FROM = "model3"
REPLACED = "replaced"  # in runs/: what stood in the way of a run

"""Settings of studies that train for seconds: the first lines of their files."""

SETTINGS = """
[settings]
stage = 1
model = { arch = "test_byobnet", pretrained = false }
optimizer = { epochs = 1, batch = 8, warmup_epochs = 0 }
data = { size = 48, folds = 3 }
runtime.device = "cpu"
"""

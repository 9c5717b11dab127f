"""What others have published of a training step's rate, for what is derived where no GPU is at hand.

EfficientNetV2-S in AMP and channels-last on an RTX 3090, 128 images of 288 pixels at a time: 559.2 images/s (timm,
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv).
"""

RATE, SIDE = 559.2, 288


def images_per_second(side: int) -> float:
    """At another side in pixels, by pixels: more than small sides reach."""
    return RATE * (SIDE / side) ** 2

"""What others have published of a training step's rate, for what is derived where no GPU is at hand.

The default network, tf_efficientnetv2_s, in AMP and channels-last on an RTX 3090, 128 images of 300 pixels at a time:
488.25 images/s, and 389.10 without channels-last (timm, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv and
the nchw file beside it). efficientnetv2_s, 559.15 at 288 pixels there, is another network: no padding as TensorFlow's.
"""

RATE, SIDE, WITHOUT_CHANNELS_LAST = 488.25, 300, 389.10
IMAGES, EPOCHS = 211_879, 30  # that a stage trains on, and its epochs


def images_per_second(side: int) -> float:
    """At another side in pixels, by pixels: more than small sides reach."""
    return RATE * (SIDE / side) ** 2


def hours(rate: float) -> float:
    """Of a stage of MIMIC-CXR-JPG at so many images/s, without validation."""
    return IMAGES * EPOCHS / rate / 3600

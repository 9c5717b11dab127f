"""How many studies a synthetic release needs for a number of images."""

import math

IMAGES_PER_STUDY = 1.6  # rounded down


def studies_for(images: int) -> int:
    """Studies that have about so many images, rather more than fewer."""
    return math.ceil(images / IMAGES_PER_STUDY)

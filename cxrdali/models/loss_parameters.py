"""Parameters that several losses have: a field of its own for each."""

from typing import Any

from cxrdali.setting import Legal, from_zero_below, setting

# below 1, its gradient is infinite at p = 0
GAMMA = Legal(lambda value: value == 0 or 1 <= value <= 20, "0, or 1 to 20")
_EPOCHS = Legal(lambda value: value >= 0, "0 or more epochs")


def focal_gamma() -> Any:
    return setting(2.0, "focusing exponent.", GAMMA)


def cb_beta() -> Any:
    return setting(0.9999, "of the effective number of images, below 1.", from_zero_below(1))


def drw_epoch() -> Any:
    return setting(10, "epochs before positive terms are re-weighted.", _EPOCHS)

"""Augmentation at one word: the settings that each preset stands for, by flat name."""

PLAIN = {"flips": "none", "cutout": "off", "augment": (), "mixup": 0.0, "cutmix": 0.0}
PRESETS = {
    # Yamagishi & Hanaoka 2023
    "paper": {**PLAIN, "flips": "both", "cutout": "published"},
    # the winner of CXR-LT 2026; how strong its noise is, it does not say in a number: ours
    "mild": {
        **PLAIN,
        "flips": "horizontal",
        "augment": (
            "affine(p=0.4, shift=0.03, scale=0.05, degrees=7)",
            "clahe(p=0.2, clip=2, tiles=8)",
            "brightness(p=0.2, brightness=0.08, contrast=0.08)",
            "noise(p=0.15, sigma=0.02)",
            "squares(p=0.15, most=6, side=0.047)",
        ),
    },
    "none": PLAIN,
}

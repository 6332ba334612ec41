"""What may be wrong with one galaxy: the bits of `flags` in predictions/{rank}.npz."""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """Bits of a galaxy's flags; their descriptions are in FLAGS."""

    IMAGE = 1
    BLANK = 2
    MAGNITUDES = 4
    NO_REDSHIFT = 8
    FAINT_OR_BRIGHT = 16
    FAR_OR_NEAR = 32
    UNFAMILIAR = 64


FLAGS = {
    Flag.IMAGE: "the image holds NaN or infinite pixels and was not used",
    Flag.BLANK: "all pixels of the image are zero",
    Flag.MAGNITUDES: "a magnitude is NaN or infinite, and none of them was used",
    Flag.NO_REDSHIFT: "nothing was left to compute a redshift from, or it was not finite: z_pred is NaN",
    Flag.FAINT_OR_BRIGHT: "a magnitude lies outside those of 99.8 % of the network's training galaxies",
    Flag.FAR_OR_NEAR: "z_pred lies outside the redshifts of the network's training galaxies",
    Flag.UNFAMILIAR: "image and magnitudes together are less likely than those of 99.9 % of the galaxies that "
    "calibrated the network",
}

BAD = Flag.IMAGE | Flag.BLANK | Flag.MAGNITUDES | Flag.NO_REDSHIFT
"""With one of these a galaxy lacks something; `max_bad_fraction` of the payload limits how many may."""


def name(flag: Flag) -> str:
    """As rank infos and summaries call it: no_redshift."""
    return str(flag.name).lower()


NAMES = tuple(name(flag) for flag in FLAGS)

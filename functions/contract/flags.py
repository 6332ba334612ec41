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
    NOT_DETECTED = 64
    UNFAMILIAR = 128


FLAGS = {
    Flag.IMAGE: "the image holds NaN or infinite pixels and was not used",
    Flag.BLANK: "all pixels of the image are zero",
    Flag.MAGNITUDES: "a magnitude is not known (NaN, a marker such as -99 or 0), and none of them was used",
    Flag.NO_REDSHIFT: "what the network needs is missing, or the redshift was not finite: z_pred is NaN",
    Flag.FAINT_OR_BRIGHT: "a magnitude is outside the range of 99.8 % of the network's training galaxies",
    Flag.FAR_OR_NEAR: "z_pred is outside the range of redshifts of the network's training galaxies",
    Flag.NOT_DETECTED: "not detected in a band (99, inf, fainter than the limit): the model's limit was used",
    Flag.UNFAMILIAR: "image and magnitudes together are less likely than those of 99.9 % of the galaxies that "
    "calibrated the network",
}

BAD = Flag.IMAGE | Flag.BLANK | Flag.MAGNITUDES | Flag.NO_REDSHIFT
"""A galaxy with one of these lacks something; `max_bad_fraction` of the payload limits their share."""

FEW_BAD = 5
"""Up to this many never fail a rank, unless they are more than half of it or `max_bad_fraction` is 0."""


def name(flag: Flag) -> str:
    """The flag's name in rank infos and summaries, such as no_redshift."""
    return str(flag.name).lower()


NAMES = tuple(name(flag) for flag in FLAGS)

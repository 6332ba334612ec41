"""The columns of a catalogue: what each holds, its unit, and its UCD.

UCDs are those of the IVOA's controlled vocabulary (UCD1+, https://www.ivoa.net/documents/UCD1+).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .flags import FLAGS
from .flags import name as flag_name

LEVELS = (0.025, 0.16, 0.84, 0.975)
"""Of the quantiles of p(z) besides the median."""
CONFIDENCE_RANGE = 0.15
"""Of (1 + z), on either side of the median."""
MOST_CHARACTERS = {"unit": 60, "ucd": 250, "description": 500}
"""Of the metadata of a column. FITS has room for 68 in a unit."""
_MOST_REDSHIFTS = 5000  # of p(z)


def redshift_grid(to: float, step: float) -> list[float]:
    """The redshifts at which a calibrated model gives p(z): from 0 to `to`. Raises ValueError for too many."""
    if not 2 <= to / step <= _MOST_REDSHIFTS:
        raise ValueError(f"redshifts: to / step is not from 2 to {_MOST_REDSHIFTS}")
    last = round(to / step)
    return [*(number * (to / last) for number in range(last)), to]


def quantile_name(level: float) -> str:
    """z_q025 for 2.5 %, z_q160 for 16 %."""
    return f"z_q{round(1000 * level):03d}"


@dataclass(frozen=True)
class Column:
    """unit: '' for a number without one; ucd: '' if the vocabulary has no word for it."""

    description: str
    unit: str = ""
    ucd: str = ""

    def metadata(self) -> dict[str, str]:
        """What is known about the column, as the metadata of a file's column."""
        known = {"unit": self.unit, "ucd": self.ucd, "description": self.description}
        return {name: text for name, text in known.items() if text}

    @classmethod
    def of(cls, metadata: Any) -> Column:
        """The column with this metadata. Raises ValueError for anything that `metadata` would not return."""
        if not isinstance(metadata, Mapping) or not metadata.keys() <= MOST_CHARACTERS.keys():
            raise ValueError("the metadata of a column are not its unit, UCD and description")
        for name, text in metadata.items():
            if not is_metadata(text, MOST_CHARACTERS[name]):
                raise ValueError(
                    f"the {name} of a column is not printable ASCII of at most {MOST_CHARACTERS[name]}"
                )
        return cls(**{"description": "", **metadata})


def is_metadata(text: Any, most: int) -> bool:
    """Whether every format holds the text; headers of FITS hold only ASCII. most: characters."""
    return isinstance(text, str) and 0 < len(text) <= most and text.isascii() and text.isprintable()


_PHOTOMETRIC = "src.redshift.phot"
_FLAGS = "; ".join(f"{int(flag)} {flag_name(flag)}: {text}" for flag, text in FLAGS.items())

COLUMNS = {
    "id": Column("identifier of the galaxy in its source", ucd="meta.id;meta.main"),
    "ra": Column("right ascension", "deg", "pos.eq.ra;meta.main"),
    "dec": Column("declination", "deg", "pos.eq.dec;meta.main"),
    "file": Column("partition that holds the galaxy", ucd="meta.ref;meta.file"),
    "row": Column("row of the galaxy in its partition, from 0", ucd="meta.record"),
    "z_pred": Column("predicted redshift", ucd=_PHOTOMETRIC),
    "z_true": Column("true redshift that the partition holds", ucd="src.redshift"),
    "flags": Column(f"sum of what is wrong with the galaxy; 0 for nothing. {_FLAGS}", ucd="meta.code.qual"),
    "z_mode": Column("redshift of the greatest density p(z)", ucd=_PHOTOMETRIC),
    "z_mean": Column("mean of p(z)", ucd=f"{_PHOTOMETRIC};stat.mean"),
    "z_median": Column("median of p(z)", ucd=f"{_PHOTOMETRIC};stat.median"),
    "z_std": Column("standard deviation of p(z)", ucd=f"stat.stdev;{_PHOTOMETRIC}"),
    **{
        quantile_name(level): Column(f"quantile {100 * level:g} % of p(z)", ucd=f"{_PHOTOMETRIC};stat.interval")
        for level in LEVELS
    },
    "z_conf": Column(
        f"probability that the redshift is within {CONFIDENCE_RANGE:g} (1 + z_median) of z_median",
        ucd=f"stat.probability;{_PHOTOMETRIC}",
    ),
    "pit": Column("probability that p(z) puts below z_true", ucd="stat.probability;src.redshift"),
    "pdf": Column("density p(z) at each redshift of z_grid", ucd=f"stat.probability;{_PHOTOMETRIC}"),
    "ood_score": Column(
        "negative log-density of embedding and magnitudes, per dimension; higher is more unusual"
    ),
    "ood_p": Column("share of the calibration galaxies with at least this score", ucd="stat.probability"),
    "embedding": Column("numbers by which the network's encoder describes the image"),
}
"""By name, in the order in which a catalogue has them; other columns follow as they are."""

PARTITION = "arrival"
"""The column by which a catalogue that grows is partitioned."""

DECIMAL = "decimal(20,0)"
STORED = {
    "i1": ("byte", "i1"),
    "i2": ("short", "i2"),
    "i4": ("integer", "i4"),
    "i8": ("long", "i8"),
    "u1": ("short", "i2"),
    "u2": ("integer", "i4"),
    "u4": ("long", "i8"),
    "u8": (DECIMAL, "u8"),
    "f4": ("float", "f4"),
    "f8": ("double", "f8"),
    "b1": ("boolean", "b1"),
}
"""By numpy's type: Delta Lake's name of the type that holds all its values, and numpy's. Delta Lake has no
whole numbers without a sign (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#primitive-types)."""

OF_PARTITIONS = ("id", "ra", "dec", "z_true")
"""Columns among COLUMNS that only partitions with such values have; the others are predictions."""

GRID = Column("redshifts at which pdf is given", ucd=_PHOTOMETRIC)


def stored_type(code: str) -> str:
    """Delta Lake's type of a column of numpy's type, such as i8 or U5. Raises KeyError."""
    return "string" if code.startswith("U") else STORED[code][0]


def taken_name(name: str) -> str:
    """The message about a partition's column that has the name of PARTITION."""
    return (
        f"the partitions have a column {name}, which a catalogue has for something else; prepare them "
        "without it, or run without `catalogue`"
    )


def described(name: str, metadata: Mapping[str, Column] = {}) -> Column:
    """metadata: of the columns of an imported network."""
    return metadata.get(name) or COLUMNS.get(name, Column(""))


def ordered(names: set[str]) -> list[str]:
    """Known names first."""
    known = [name for name in COLUMNS if name in names]
    return known + sorted(names - set(known))

"""docs/data.md from the code: `python -m cosmicai.data.page` writes it, a test keeps it so."""

from __future__ import annotations

from collections.abc import Mapping

from cosmicai.data.choice import IDS
from cosmicai.data.sources import KINDS
from cosmicai.data.units import ZERO_POINTS
from cosmicai.packaging.places import ROOT
from inference.contract.missing import (
    BRIGHTEST,
    FAINTEST,
    FLUX_MARKERS,
    MAGNITUDE_MARKERS,
    REDSHIFT_MARKERS,
    Missing,
)
from inference.data.objects import RECORD

PAGE = ROOT / "docs" / "data.md"

_IDS = ", ".join(f"`{one}`" for one in IDS)
_REDSHIFTS = ", ".join(f"{one:g}" for one in REDSHIFT_MARKERS)
_INTRODUCTION = """\
# Your data

Made from the code by `python -m cosmicai.data.page`; a test keeps it so.

`cosmicai data prepare SOURCE --out FOLDER` cuts galaxies into partitions for one model. `cosmicai data inspect
SOURCE` takes the same options, writes nothing, and shows what would be read and what looks wrong. Nothing is
guessed: where a source can be read in two ways, both commands list them with the option that chooses, and
stop. What was taken because nothing else was possible is said in the summary.

The model (`--model DIR`, by default the bundled one) decides bands, size and pixel scale by its `config.json`
and `card.json`. For a network that is still to be trained, `--model` takes its `config.json` alone; then
`--bands` and `--pixel-scale` say what the partitions hold, and `photometry.json` beside them tells `model
train`.

## Sources

The kind of a file is told by its content. Files compressed by gzip, bzip2 or xz are unpacked into the folder
for temporary files (`TMPDIR`). Sources are read in pieces: memory does not grow with them.
"""
_RULES = f"""\
## Bands and images

Bands go by their names. A name holds a band where the band is a word of it: `HSC-G`, `MAG_AUTO_G`,
`g_cmodel_mag` and `g DECam SDSS c0001` all hold g. Channels that the model does not take are left out. A set
that lacks a band is refused; `--fill-bands u` fills it with zeros, and its magnitude with the limit. `--bands
g,r,i,z` names channels that the file does not. Channels without names are taken in the model's order where
there are as many as it takes, and the summary says so; an array (N, M) of magnitudes has the order of the
channels.

Stamps of another pixel scale are resampled to the model's, so that every new pixel holds the light that falls
on it, then cropped to the central pixels. Where the scale is not known (`--pixel-scale`), only stamps of the
model's size are taken; `--fit crop` and `--fit resize` say that the pixels, or the whole stamps, are the
model's. Smaller stamps are refused; `--pad` surrounds them with zeros. Pixels are multiplied to have the
model's zero point where theirs is known, by the file or by `--pixel-unit` and `--pixel-zero-point`.

Pixels that are NaN or infinite, that `--mask` marks (not 0) or whose inverse variance is 0 (`--ivar`) are NaN
in the partitions, or 0 with `--bad-pixels zero`. `--drop-unusable` leaves out the galaxies that have a bad
pixel or lack a magnitude. A run does not use an image with NaN, nor the magnitudes of a galaxy of which one is
NaN: such a galaxy gets a flag, and its redshift from what is left, or NaN
([flags](payload.md#galaxies-that-lack-something)).

## Redshifts and identifiers

The redshift is the column called `redshift`, `z_spec` or another of the usual names; two of them are refused.
A column that is called `z` alone is taken last, and only where no column is called u, g, r, i or y. A column
of values with errors, (N, 2), is named by `--redshift 'Z[0]'`. Redshifts that are not finite, at most -1 or
one of {_REDSHIFTS} are unknown: NaN.

Identifiers are the column called {_IDS}
(in any case), or the one that `--id` names; where several could be meant, they are listed and refused. Without
one, or with `--id none`, the row number in the source is the identifier. ra and dec (degrees) are found by
their usual names, and `--keep` names more columns, such as `--keep 'EBV,FLAGS_*'`. All of them go into the
partitions, and from there into every prediction and catalogue (`cosmicai catalogue`, `results --format`).
Values stay exact: whole numbers of 64 bits, text as it is. A kept column of whole numbers with missing ones
becomes text; a name that predictions have for something else gets `source_` in front.

In a partition they are the entry `{RECORD}` of the .pt file, which is a zip: a structured numpy
array with a row for each galaxy. `torch.load` does not look at it and gives the TensorDataset as before. numpy
reads it:

```python
import io, zipfile
import numpy as np

with zipfile.ZipFile("partitions/1.pt") as file:
    folder = file.namelist()[0].split("/")[0]
    objects = np.load(io.BytesIO(file.read(f"{{folder}}/{RECORD}")))
print(objects["id"], objects.dtype.names)
```

## Missing magnitudes

Text that is blank, `null`, `none` or `--` is missing like NaN. Not detected: the survey looked and saw
nothing, so the value is the model's limiting magnitude, or that of `--limits`. Not observed: nothing is known,
so the value is NaN. The summary counts each marker by band. Training and the ranks of a run go by the same
table. `--missing VALUE=not-detected` or
`VALUE=not-observed` adds a marker or changes one, for example `--missing nan=not-detected`.
"""
_AFTER = f"""\
Beside the markers, a magnitude fainter than the model's limit becomes that limit, as in training, and one
beyond {BRIGHTEST:g} to {FAINTEST:g} is unusable: NaN. Where more than 5 percent of a band are, the source is
refused with the likely reason, such as fluxes in the place of magnitudes.

## One set in a folder

All `.pt` files in a folder, or under a prefix, are one set of partitions: a run, `infer`, `model train` and
`data upload` take those in folders below it too. They do not take hidden files, empty files and other endings
(`.PT`, `.pth`, `.pt.gz`), and name them with a count.

`data prepare`, `data dc2` and `data upload` write one set, and never leave a part of another beside it:

- Where the same set is already, nothing is written. Where another set is, they stop before anything changes.
  `--overwrite` puts the new set in its place. It removes only partitions that these commands wrote: `1.pt`,
  `2.pt`, …, and objects in S3 with the metadata `sha256`. If a run would take any other file, the commands
  stop.
- The new set waits in the hidden folder `.partial` and is moved when it is complete. After a call that was
  cut off, the old set is there, and the same call continues. If the move itself was cut off, the mark
  `.partial/moving` stays: runs and all commands refuse the folder until the same call has finished it. Into
  an empty prefix of a bucket the objects are written directly, with that mark beside them.
- Two processes cannot write to one folder or prefix at once: the second stops.

## What looks wrong

Both commands end with a summary: bands in order, size, pixel scale, units, identifiers, the range of magnitudes
in each band next to the range in the model's training, and missing values by kind. `data prepare` writes a
contact sheet, `stamps.png`, next to the partitions. They warn where

- by the magnitudes, the channels look like bands in another order, or like fluxes of another zero point;
- one band differs from the others in its unit;
- images are all zero, or several pixels of a galaxy have the same greatest value, as saturation makes them;
- galaxies share their very faintest or brightest magnitude, as they share a marker;
- more than 5 percent of a band's magnitudes are outside those of the training.

## Units

`--flux-unit` or `--zero-point` say that the magnitude columns hold fluxes; `--pixel-unit` or
`--pixel-zero-point` say what the pixels are. Columns whose unit the file states need neither.
"""


def page() -> str:
    """The whole page."""
    sources = [f"| {kind.name} | {kind.reads} | {kind.refuses} |" for kind in KINDS]
    units = [f"| {name} | {zero_point:g} |" for name, zero_point in ZERO_POINTS.items()]
    return "\n".join(
        [
            _INTRODUCTION,
            *_table("source", "what is read", "what is refused"),
            *sources,
            "",
            _RULES,
            *_table("taken as", "markers of magnitudes", "markers of fluxes"),
            *_markers(),
            "",
            _AFTER,
            *_table("unit", "AB magnitude of 1"),
            *units,
            "",
        ]
    )


def _table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _markers() -> list[str]:
    def listed(markers: Mapping[float, Missing], kind: Missing) -> str:
        return ", ".join(f"{marker:g}" for marker, one in markers.items() if one is kind)

    fluxes = {kind: listed(FLUX_MARKERS, kind) for kind in Missing}
    fluxes[Missing.NOT_DETECTED] = "every other value below 0"
    return [f"| {kind} | {listed(MAGNITUDE_MARKERS, kind)} | {fluxes[kind]} |" for kind in Missing]


if __name__ == "__main__":
    PAGE.write_text(page())

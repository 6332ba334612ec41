"""Writes docs/data.md from the code: `python -m cosmicai.data.page`. A test checks that it is up to date."""

from __future__ import annotations

from collections.abc import Mapping

from cosmicai.data.sources import KINDS
from cosmicai.data.sources.base import IDS
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
from initialize.contract.photometry import SAME_MAGNITUDE, SAME_SCALE

PAGE = ROOT / "docs" / "data.md"

_IDS = ", ".join(f"`{one}`" for one in IDS)
_REDSHIFTS = ", ".join(f"{one:g}" for one in REDSHIFT_MARKERS)
_INTRODUCTION = """\
# Your data

`python -m cosmicai.data.page` writes this page from the code; a test checks that it is up to date.

`cosmicai data prepare SOURCE --out FOLDER` cuts galaxies into partitions for one model. `cosmicai data inspect
SOURCE` accepts the same options. It writes nothing, and shows what would be read and what looks wrong. The
commands never guess. If a source can be read in two ways, both commands stop, and list the readings and the
options that choose between them. The summary reports every choice that the commands made because there was
only one possibility.

The `config.json` and `card.json` of the model (`--model DIR`, by default the bundled one) define bands, size
and pixel scale. A network that is not trained yet has no card. For such a network, give the path of its
`config.json` to `--model`. `--bands` and `--pixel-scale` then say what the partitions contain, and `model
train` reads this from the partitions' [`photometry.json`](#what-the-numbers-mean).

## Sources

The commands recognise the kind of a file by its content. They unpack files compressed by gzip, bzip2 or xz
into the folder for temporary files (`TMPDIR`). They read a source in pieces, so memory does not grow with its
size.
"""
_RULES = f"""\
## Bands and images

Bands are recognised by name. A column or channel belongs to a band if the band is a separate word in its name:
`HSC-G`, `MAG_AUTO_G`, `g_cmodel_mag` and `g DECam SDSS c0001` all belong to g. Channels that the model does
not use are left out. A set that lacks a band is refused; `--fill-bands u` fills the band with zeros, and its
magnitude with the limit. `--bands g,r,i,z` names the channels if the file does not. If there are as many
unnamed channels as the model has bands, they are assumed to be in the model's order, and the summary says so.
The columns of an array (N, M) of magnitudes are in the order of the channels. If each band has its own image,
and the file has them in another order than the model, the source is refused until `--magnitudes` decides.

The rows of `--catalogue` are those of the images, in the same order. If both files have a column of identifiers
of one name, such as `object_id`, the commands compare them, and refuse a catalogue in another order.

Stamps of another pixel scale are resampled to the model's, so that every new pixel gets the light that falls
on its area. They are then cropped to the central pixels. If the pixel scale is not known (`--pixel-scale`
gives it), only stamps of the model's size are accepted. `--fit crop` says that the pixels have the model's
scale; `--fit resize` says that the whole stamps cover the model's field. Smaller stamps are refused; `--pad`
surrounds them with zeros. If the zero point of the pixels is known, from the file or from `--pixel-unit` and
`--pixel-zero-point`, the pixels are multiplied so that they have the model's zero point.

Some pixels are bad: NaN or infinite ones, those that `--mask` marks (not 0), and those whose inverse variance
is 0 (`--ivar`). They are NaN in the partitions, or 0 with `--bad-pixels zero`. `--drop-unusable` leaves out
galaxies that have a bad pixel or lack a magnitude. A run does not use an image that contains NaN, nor any
magnitude of a galaxy that lacks one. Such a galaxy gets a flag, and a redshift from its other input, or NaN
([flags](payload.md#galaxies-that-lack-something)).

## Redshifts and identifiers

The redshift column is the one called `redshift`, `z_spec` or another of the usual names; a source with two of
them is refused. A column called just `z` counts as the redshift only if there is no other, and no column is
called u, g, r, i or y. For a column of values with errors, (N, 2), use `--redshift 'Z[0]'`. A redshift is
unknown (NaN) if it is not finite, at most -1, or one of {_REDSHIFTS}.

The identifier is the column that `--id` names, or the one that has one of these names in upper or lower case:
{_IDS}.
If several columns are possible, the source is refused and the error lists them. Without such a column, or with
`--id none`, the row number in the source is the identifier. ra and dec (degrees) are recognised by their usual
names. `--keep` names more columns, such as `--keep 'EBV,FLAGS_*'`. All of these columns go into the partitions,
and from there into every prediction and catalogue (`cosmicai catalogue`, `results --format`). Values stay
exact: 64-bit integers, and text as it is. A kept column of integers becomes text if some of them are missing.
If predictions already use the name of a kept column, it gets the prefix `source_`.

In a partition these columns are in the entry `{RECORD}` of the .pt file, which is a zip: a structured numpy
array with one row per galaxy. `torch.load` ignores this entry and returns the TensorDataset. numpy reads it:

```python
import io, zipfile
import numpy as np

with zipfile.ZipFile("partitions/1.pt") as file:
    folder = file.namelist()[0].split("/")[0]
    objects = np.load(io.BytesIO(file.read(f"{{folder}}/{RECORD}")))
print(objects["id"], objects.dtype.names)
```

## Missing magnitudes

The texts `null`, `none`, `--` and a blank are missing values, like NaN. *Not detected* means that the survey
observed the galaxy but measured no light, so the value becomes the model's limiting magnitude, or the one from
`--limits`. *Not observed* means that nothing is known, so the value becomes NaN. The summary counts each
marker by band. Training and the ranks of a run use the same table. `--missing VALUE=not-detected` or
`--missing VALUE=not-observed` adds a marker or changes one, for example `--missing nan=not-detected`.
"""
_AFTER = f"""\
A magnitude fainter than the model's limit becomes that limit, as in training. A magnitude outside
{BRIGHTEST:g} to {FAINTEST:g} is unusable: NaN. If more than 5 percent of a band's magnitudes are outside, the
source is refused, and the error gives the likely reason, such as fluxes instead of magnitudes.

## One set in a folder

All `.pt` files in a folder and its subfolders, or under a prefix, are one set of partitions, for a run,
`infer`, `model train` and `data upload` alike. Hidden files, empty files and files with other endings (`.PT`,
`.pth`, `.pt.gz`) are skipped; the commands list them with a count.

`data prepare`, `data dc2` and `data upload` write one set, and never mix it with files of another set:

- If the same set is there already, they write nothing. If another set is there, they stop before they change
  anything. `--overwrite` replaces the other set. It removes only partitions that these commands wrote: `1.pt`,
  `2.pt`, …, and objects in S3 with the metadata `sha256`. If there is another file that a run would read, the
  commands stop.
- They write the new set to the hidden folder `.partial` and move it when it is complete. If the command is
  interrupted before that, the old set is still there, and the same command continues. If it is interrupted
  during the move, the marker `.partial/moving` stays: runs and all commands refuse the folder until the same
  command has finished the move. Into an empty prefix of a bucket they write the objects directly, with the
  same marker.
- Two processes cannot write to one folder or prefix at the same time: the second one stops.

## What the numbers mean

No tensor says which bands it holds, or in which unit. So `data prepare` and `data dc2` write `photometry.json`
next to the partitions, `data upload` takes it along, and the card of a model repeats it:

```json
{{"bands": ["g", "r", "i", "z"], "zero_point": 22.5, "pixel_scale": 0.262, "flux_unit": "nanomaggies",
 "magnitude_limits": [24.7, 23.9, 23.4, 23.0]}}
```

Bands are in the order of the channels, `zero_point` is the AB magnitude of a pixel value of 1, `pixel_scale` is
in arcsec, and `magnitude_limits` are the magnitudes of galaxies that a band does not detect. What is not known
is null or left out. You can write the file yourself. Runs and all commands treat it in the same way:

- It describes the partitions next to it and in subfolders. The files in a folder and its subfolders must agree,
  as must those of several folders that one command reads.
- `data inspect` and `data prepare` read bands, zero point, pixel scale and limits of `.pt` sources from it, for
  one partition and for a folder of them. A note in the summary says what they read. They stop if an option
  (`--bands`, `--pixel-scale`, `--pixel-unit`, `--pixel-zero-point`) contradicts the file, or if the numbers of
  bands or limits are not those of the tensors. Magnitudes at the limit of the source count as not detected.
- `infer`, a run, `model train --from`, `model calibrate`, `model optimise` and `model speed` compare bands,
  zero point and pixel scale with the card of the model, and stop if they differ: the network would be wrong on
  such partitions. A run stops before a rank starts. What either side does not state is not compared. Limits may
  differ.
- `model train` writes it into the card. An option may add what the file does not state, but not contradict it.

Zero points that differ by less than {SAME_MAGNITUDE:g} mag are the same, and so are pixel scales that differ by
less than {100 * SAME_SCALE:g} percent. With `--fit crop` or `--fit resize` you say that the pixels are those of
the model, and `data prepare` writes the model's pixel scale.

## What looks wrong

Both commands end with a summary: bands in order, size, pixel scale, units, identifiers, the range of
magnitudes in each band next to the range in the model's training, and missing values by kind. `data prepare`
writes a contact sheet, `stamps.png`, next to the partitions. The commands warn if

- the magnitudes suggest that the channels are in another order of bands, or are fluxes of another zero point;
- one band has another unit than the others;
- images are all zero, or several pixels of a galaxy share the greatest value, which is a sign of saturation;
- several galaxies share exactly the faintest or brightest magnitude, which may be a marker of missing values;
- more than 5 percent of a band's magnitudes are outside the range of the training.

## Units

`--flux-unit` or `--zero-point` say that the magnitude columns hold fluxes; `--pixel-unit` or
`--pixel-zero-point` give the unit of the pixels. If the file states the unit, neither is needed: BUNIT,
TUNIT, the attribute `unit` of HDF5, or a keyword such as MAGZERO. Other multiples of Jy are converted as well.
If a file states two values that differ, or the files of a folder do, the source is refused until one of these
options decides.
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
            *_table("meaning", "markers of magnitudes", "markers of fluxes"),
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

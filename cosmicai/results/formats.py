"""A catalogue in the formats that astronomers open; columns, units and UCDs are in the files' metadata."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.packaging.extras import needed
from cosmicai.results.catalogue import Catalogue, CatalogueError
from cosmicai.results.outputs import new_file, new_folder
from cosmicai.results.tables import astropy_table, pandas_frame, qp_ensemble
from inference.contract.columns import GRID, Column

Array = NDArray[Any]


def write(catalogue: Catalogue, formats: list[str], folder: Path) -> list[Path]:
    """Writes the catalogue to `folder` in each of FORMATS that is named. Raises CatalogueError, OutputError."""
    return [FORMATS[one](catalogue, folder) for one in formats]


def write_csv(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.csv without the columns pdf and embedding, and columns.csv, which describes the columns."""
    names = [name for name in catalogue.names if not catalogue.types[name][1]]
    path = folder / "catalogue.csv"
    with new_file(folder / "columns.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "unit", "ucd", "description"))
        columns = ((name, catalogue.columns[name]) for name in names)
        writer.writerows((name, one.unit, one.ucd, one.description) for name, one in columns)
    with new_file(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for table in catalogue.tables():
            writer.writerows(zip(*(_texts(table[name]) for name in names), strict=True))
    return path


def _texts(column: Array) -> list[Any]:
    """The shortest text of each float that gives its float32 or float64 again; '' for NaN."""
    if column.dtype.kind != "f":
        return list(column.tolist())
    return ["" if np.isnan(value) else np.format_float_positional(value, trim="0") for value in column]


def write_parquet(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.parquet, a dataset with a file per rank; pdf is a list of fixed length."""
    pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    path, schema = folder / "catalogue.parquet", _schema(catalogue)
    with new_folder(path) as scratch:
        for number, table in enumerate(catalogue.tables()):
            arrays = [_arrow(table[field.name], field.type) for field in schema]
            batch = pa.Table.from_arrays(arrays, schema=schema)
            parquet.write_table(batch, scratch / f"part-{number:06d}.parquet", compression="zstd")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # of an earlier call
        scratch.rename(path)
    return path


def _schema(catalogue: Catalogue) -> Any:
    import pyarrow as pa

    fields = []
    for name, (kind, shape) in catalogue.types.items():
        value = pa.string() if kind.kind == "U" else pa.from_numpy_dtype(kind)
        type_ = pa.list_(value, int(np.prod(shape))) if shape else value
        fields.append(pa.field(name, type_, metadata=catalogue.columns[name].metadata()))
    grid = {} if catalogue.grid is None else {"z_grid": json.dumps(catalogue.grid.tolist())}
    return pa.schema(fields, metadata={"run_id": catalogue.run_id, **grid})


def _arrow(column: Array, type_: Any) -> Any:
    import pyarrow as pa

    if column.ndim == 1:
        return pa.array(column, type_)
    values = pa.array(np.ascontiguousarray(column).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, type=type_)


def write_fits(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.fits: a binary table with TUCDn and TCOMMn, and a second table with the grid of pdf."""
    fits = needed("astropy.io.fits")
    hdus = [fits.PrimaryHDU(), _fits_table("CATALOGUE", catalogue.whole(), catalogue.columns)]
    if catalogue.grid is not None:
        hdus.append(_fits_table("Z_GRID", {"z_grid": catalogue.grid}, {"z_grid": GRID}))
    hdus[1].header["RUN_ID"] = (catalogue.run_id, "the run that predicted these redshifts")
    path = folder / "catalogue.fits"
    with new_file(path) as scratch:
        fits.HDUList(hdus).writeto(scratch)
    return path


def _fits_table(name: str, arrays: dict[str, Array], columns: dict[str, Column]) -> Any:
    fits = needed("astropy.io.fits")
    made = []
    for key, array in arrays.items():
        text = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        unit = columns[key].unit or None
        made.append(fits.Column(key, _fits_format(text), unit, array=text, **_fits_zero(text)))
    table = fits.BinTableHDU.from_columns(fits.ColDefs(made), name=name)
    for number, key in enumerate(arrays, 1):
        column = columns[key]
        for keyword, value in (("TUCD", column.ucd), ("TCOMM", column.description)):
            if value:
                table.header[f"{keyword}{number}"] = value
    return table


_FITS = {
    "f8": "D",
    "f4": "E",
    "i8": "K",
    "i4": "J",
    "i2": "I",
    "u1": "B",
    "b1": "L",
    "u2": "I",
    "u4": "J",
    "u8": "K",
}
_FITS_ZERO = {"u2": 1 << 15, "u4": 1 << 31, "u8": 1 << 63}  # how FITS stores what has no sign


def _fits_format(array: Array) -> str:
    if array.dtype.kind == "S":
        return f"{max(array.dtype.itemsize, 1)}A"
    letter = _FITS.get(f"{array.dtype.kind}{array.dtype.itemsize}")
    if letter is None:
        raise CatalogueError(f"a column of type {array.dtype} has no place in FITS")
    return f"{int(np.prod(array.shape[1:]))}{letter}" if array.ndim > 1 else letter


def _fits_zero(array: Array) -> dict[str, int]:
    zero = _FITS_ZERO.get(f"{array.dtype.kind}{array.dtype.itemsize}")
    return {} if zero is None else {"bzero": zero}


_SIGNED = {"u2": "i4", "u4": "i8"}  # VOTable has no unsigned whole numbers except bytes


def write_votable(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.vot, in VOTable's binary serialisation, with unit, UCD and description of each field."""
    from_table = needed("astropy.io.votable").from_table
    table = astropy_table(catalogue)
    for name in table.colnames:
        wider = _SIGNED.get(f"{table[name].dtype.kind}{table[name].dtype.itemsize}")
        if wider is not None:
            table[name] = table[name].astype(wider)
    table.meta.clear()  # given in the description; `meta` of another kind would become INFO elements
    votable = from_table(table)
    first = votable.get_first_table()
    for field in first.fields:
        field.ucd = catalogue.columns[field.name].ucd or None
    first.description = f"redshifts of run {catalogue.run_id}" + (
        "" if catalogue.grid is None else f"; pdf is at the redshifts {catalogue.grid.tolist()}"
    )
    path = folder / "catalogue.vot"
    with new_file(path) as scratch:
        votable.to_xml(str(scratch), tabledata_format="binary2")
    return path


def write_qp(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.qp.hdf5: an interpolated ensemble of qp with the other columns as ancillary data.

    Galaxies without p(z) are left out.
    """
    ensemble = qp_ensemble(catalogue)
    path = folder / "catalogue.qp.hdf5"
    with new_file(path) as scratch:
        ensemble.write_to(str(scratch))
    return path


def write_hats(catalogue: Catalogue, folder: Path) -> Path:
    """catalogue.hats: a HATS catalogue, partitioned on the sky by lsdb."""
    missing = [name for name in ("ra", "dec") if name not in catalogue.types]
    if missing:
        raise CatalogueError(
            f"hats: a HATS catalogue is ordered by ra and dec, but the predictions have no "
            f"{' and '.join(missing)}, because the partitions hold none"
        )
    lsdb = needed("lsdb")
    path = folder / "catalogue.hats"
    with new_folder(path) as scratch:
        made = lsdb.from_dataframe(
            pandas_frame(catalogue), ra_column="ra", dec_column="dec", catalog_name="catalogue"
        )
        made.to_hats(scratch, overwrite=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        scratch.rename(path)
    return path


FORMATS: dict[str, Callable[[Catalogue, Path], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "fits": write_fits,
    "votable": write_votable,
    "qp": write_qp,
    "hats": write_hats,
}

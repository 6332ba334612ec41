"""A catalogue as the tables that astronomers work with, in memory: astropy, pandas, qp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.packaging.extras import needed
from cosmicai.results.catalogue import Catalogue, CatalogueError
from inference.contract.columns import GRID

if TYPE_CHECKING:
    import pandas
    import qp
    from astropy.table import Table

Array = NDArray[Any]


def astropy_table(catalogue: Catalogue) -> Table:
    """A row per galaxy; columns with unit, description and, as meta["ucd"], UCD. Raises MissingPackageError.

    pdf has the shape (N, M), and meta["z_grid"] the M redshifts; meta["run_id"] names the run.
    """
    tables = needed("astropy.table")
    table = tables.Table(meta=_about(catalogue))
    for name, array in catalogue.whole().items():
        column = catalogue.columns[name]
        table[name] = tables.Column(
            array,
            unit=column.unit or None,
            description=column.description or None,
            meta={"ucd": column.ucd} if column.ucd else None,
        )
    return table


def pandas_frame(catalogue: Catalogue) -> pandas.DataFrame:
    """A row per galaxy; each cell of pdf is an array (M,), and attrs["z_grid"] lists the M redshifts.

    attrs["run_id"] names the run, attrs["units"] has the units of columns. Raises MissingPackageError.
    """
    columns = catalogue.whole()
    frame = needed("pandas").DataFrame(
        {name: list(array) if array.ndim > 1 else _native(array) for name, array in columns.items()}
    )
    units = {name: column.unit for name, column in catalogue.columns.items() if column.unit}
    frame.attrs = {**_about(catalogue), "units": units}
    return frame


def qp_ensemble(catalogue: Catalogue) -> qp.Ensemble:
    """p(z) as qp's interpolated densities, with the other columns as ancillary data.

    Galaxies without p(z) are left out. Raises CatalogueError if no galaxy has one, and MissingPackageError.
    """
    qp = needed("qp")
    if catalogue.grid is None:
        raise CatalogueError("qp: the run's model has no p(z); run `cosmicai model calibrate` on it")
    columns = catalogue.whole()
    pdf = columns.pop("pdf")
    known = np.isfinite(pdf).all(axis=1)
    if not known.any():
        raise CatalogueError("qp: no galaxy has a p(z)")
    ancillary = {
        name: np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        for name, array in ((name, array[known]) for name, array in columns.items())
    }
    return qp.Ensemble(qp.interp, data={"xvals": catalogue.grid, "yvals": pdf[known]}, ancil=ancillary)


def _about(catalogue: Catalogue) -> dict[str, Any]:
    """What concerns the whole table."""
    grid = {} if catalogue.grid is None else {"z_grid": catalogue.grid.tolist(), "z_grid_is": GRID.description}
    return {"run_id": catalogue.run_id, **grid}


def _native(array: Array) -> Array:
    """In the byte order of this machine, which pandas needs."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)

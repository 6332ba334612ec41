"""The results of a run on this machine: its summary, its ranks and its catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cosmicai.results import tables
from cosmicai.results.catalogue import Catalogue
from cosmicai.results.report import ResultsError, read, read_copies
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import COPIES, Summary

if TYPE_CHECKING:
    import pandas
    import qp
    from astropy.table import Table


@dataclass(frozen=True)
class Results:
    """A folder with the files of one run, downloaded or written by `cosmicai.infer`.

    files: those that a download has written. left_out: objects under the run's path that
    were not downloaded, and why. Columns, units and meanings of the tables are those of docs/probabilities.md.
    """

    folder: Path
    files: tuple[Path, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether the run has a summary; one that was stopped has none."""
        return (self.folder / "summary.json").exists()

    @property
    def summary(self) -> Summary:
        """Totals, accuracy, cost and failed ranks of the run. Raises ResultsError if it has no summary."""
        return self._records[0]

    @property
    def ranks(self) -> list[RankInfo]:
        """What each rank measured, by rank, without copies. Raises ResultsError if the run has no summary."""
        return self._records[1]

    @cached_property
    def copies(self) -> list[RankInfo]:
        """What each rank that is a copy measured; [] of a run without `repeat_data`.

        Raises ResultsError if copies were not downloaded.
        """
        if not self.summary.originals:
            return []
        if not (self.folder / COPIES).is_dir():
            raise ResultsError(
                f"{self.folder} has no {COPIES}/: download the run again with copies=True (--copies)"
            )
        return read_copies(self.folder)

    @cached_property
    def _records(self) -> tuple[Summary, list[RankInfo]]:
        return read(self.folder)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The predictions of all ranks, read rank by rank. Raises CatalogueError if there are none."""
        return Catalogue.of(self.folder)

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.folder / "report.html"

    def to_astropy(self) -> Table:
        """An astropy Table, a row per galaxy, with units (ra, dec: deg), descriptions and UCDs.

        Redshifts have no unit. pdf has the shape (galaxies, redshifts), and meta["z_grid"] the redshifts.

        Raises CatalogueError, and MissingPackageError if astropy is not installed.
        """
        return tables.astropy_table(self.catalogue)

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame, a row per galaxy; each cell of pdf is an array, and attrs["z_grid"] lists the redshifts.

        Raises CatalogueError, and MissingPackageError if pandas is not installed.
        """
        return tables.pandas_frame(self.catalogue)

    def to_qp(self) -> qp.Ensemble:
        """p(z) of the galaxies that have one, as qp and RAIL use it, with the other columns as `ancil`.

        Raises CatalogueError if there is no p(z), and MissingPackageError if qp is not installed.
        """
        return tables.qp_ensemble(self.catalogue)

    def write(self, *formats: str) -> list[Path]:
        """Writes the catalogue next to the results: csv, parquet, fits, votable, qp, hats.

        Returns the paths. Raises ResultsError for an unknown format, CatalogueError, OutputError and
        MissingPackageError.
        """
        from cosmicai.results.formats import FORMATS, write

        unknown: Sequence[str] = [name for name in formats if name not in FORMATS]
        if unknown:
            raise ResultsError(
                f"format {', '.join(map(repr, unknown))} is not known: give {', '.join(FORMATS)}"
            )
        return write(self.catalogue, list(formats), self.folder)

"""Whether the units and UCDs that a user gives are those of the standards, by astropy where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from cosmicai.packaging.extras import MissingPackageError, needed
from inference.contract.columns import Column

_FORMATS = ("fits", "vounit")  # a unit is written to FITS and to VOTable as it is


class VocabularyError(ValueError):
    """A unit or a UCD is not of the standards; the message names the column and says what to give."""


def check(columns: Mapping[str, Column]) -> str:
    """Says what has checked the units and UCDs, or why they were not checked.

    Raises VocabularyError, which names every fault.
    """
    units = {name: column.unit for name, column in columns.items() if column.unit}
    ucds = {name: column.ucd for name, column in columns.items() if column.ucd}
    try:
        of_units, of_ucds = needed("astropy.units"), needed("astropy.io.votable.ucd")
        version = needed("astropy").__version__
    except (MissingPackageError, ModuleNotFoundError) as error:
        return f"not checked: {error}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units that the standards discourage
        faults = [fault for name, unit in units.items() for fault in _unit_faults(of_units, name, unit)]
    faults += [fault for name, ucd in ucds.items() for fault in _ucd_faults(of_ucds, name, ucd)]
    if faults:
        raise VocabularyError("; ".join(dict.fromkeys(faults)))
    return f"checked by astropy {version}"


def _unit_faults(of_units: Any, name: str, unit: str) -> list[str]:
    """A sentence if a format does not have the unit, with what astropy would write in its place."""
    try:
        for one in _FORMATS:
            of_units.Unit(unit, format=one)
    except ValueError:
        return [
            f"--unit: {unit!r} of {name} is not a unit of both FITS and VOUnits; "
            + (_suggestion(of_units, unit) or "leave it out, and say by --description what the numbers are")
        ]
    return []


def _suggestion(of_units: Any, unit: str) -> str | None:
    """The same unit as the standards write it; None if there is none."""
    try:
        written = of_units.Unit(unit).to_string("vounit")
        same = all(of_units.Unit(written, format=one) == of_units.Unit(unit) for one in _FORMATS)
    except ValueError:
        return None
    return f"write {written}" if same and written else None


def _ucd_faults(of_ucds: Any, name: str, ucd: str) -> list[str]:
    try:
        of_ucds.parse_ucd(ucd, check_controlled_vocabulary=True)
    except ValueError as error:
        return [
            f"--ucd: {ucd!r} of {name} is not of UCD1+ ({error}); give words of https://www.ivoa.net/documents/UCD1+"
        ]
    return []

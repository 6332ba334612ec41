"""HDF5: datasets of groups, fields of compound datasets, soft and external links, virtual datasets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cosmicai.data.sources import multimodal
from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind

KIND = Kind(
    "HDF5 (`.h5`, `.hdf5`, `.hdf`)",
    "datasets in groups (`train/images`), fields of compound datasets, text of any length, soft links, "
    "external links and virtual datasets to files of the same folder; a folder of files with one layout, one "
    "after the other",
    "files of one folder whose units differ; links and virtual datasets to files that are "
    "missing or in another folder; a name in two groups; "
    "filters that h5py lacks",
)


def read(path: Path, stack: ExitStack) -> Table:
    """All datasets that have rows. Raises SourceError."""
    try:
        file = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    columns: list[Column] = []
    notes: list[str] = []
    _walk(path, file, "", set(), columns, notes)
    return multimodal.understood(Table(path, tuple(columns), tuple(notes)))


def _walk(
    path: Path, group: Any, prefix: str, above: set[object], columns: list[Column], notes: list[str]
) -> None:
    """above: the groups that the walk is in, so that a link to one of them is not followed for ever."""
    here = above | {group.id}
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink) and not _is_in_same_folder(path, link.filename):
            notes.append(
                f"{prefix}{name} links to {link.filename}, not a file in the same folder, and is not read"
            )
            continue
        try:
            item = group[name]
        except (KeyError, OSError, RuntimeError):
            notes.append(f"{prefix}{name} is a broken link")
            continue
        if isinstance(item, h5py.Group):
            if item.id not in here:
                _walk(path, item, f"{prefix}{name}/", here, columns, notes)
        elif isinstance(item, h5py.Dataset) and item.ndim:
            _check_virtual(path, item)
            columns += _columns(path, item, name, prefix)


def _is_in_same_folder(path: Path, filename: str) -> bool:
    target = (path.parent / filename).resolve()
    return target.parent == path.parent.resolve() and target.is_file()


def _check_virtual(path: Path, dataset: Any) -> None:
    """Raises SourceError if HDF5 would give zeros for a file that is missing."""
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != "." and not _is_in_same_folder(path, source.file_name):
            raise SourceError(
                f"{path}: {dataset.name} is a virtual dataset of {source.file_name}, which is not in the "
                "folder of this file"
            )


def _columns(path: Path, dataset: Any, name: str, prefix: str) -> list[Column]:
    dtype, shape = dataset.dtype, tuple(dataset.shape)
    if dtype.names is None:
        read = _reader(path, dataset, None)
        return [Column(name, shape[0], shape[1:], read, _kind(dtype), prefix, unit=_unit(dataset))]
    return [
        Column(
            field,
            shape[0],
            (*shape[1:], *dtype[field].shape),
            _reader(path, dataset, field),
            _kind(dtype[field].base),
            f"{prefix}{name}/",
        )
        for field in dtype.names
    ]


def _kind(dtype: Any) -> str:
    return "text" if h5py.check_string_dtype(dtype) else str(dtype)


def _unit(dataset: Any) -> str | None:
    """What astropy, pytables and others write as the attribute `unit` or `units`."""
    value = next((dataset.attrs[key] for key in ("unit", "units") if key in dataset.attrs), None)
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) else None


def _reader(path: Path, dataset: Any, field: str | None) -> Any:
    def read(start: int, stop: int) -> Array:
        try:
            rows = dataset[start:stop] if field is None else dataset.fields(field)[start:stop]
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: {dataset.name} cannot be read ({error})") from error
        return _text(rows) if rows.dtype.kind == "O" else np.asarray(rows)

    return read


def _text(rows: Array) -> Array:
    """Text of any length, which h5py gives as bytes objects."""
    decoded = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in rows.reshape(-1)]
    return np.array(decoded, dtype=np.str_).reshape(rows.shape)

"""Packages that only some commands need, and the extras of the distribution that install them."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

_DISTRIBUTIONS = {
    "localstack": "localstack-core",
    "qp": "qp-prob",
    "rail": "pz-rail-base",
    "sklearn": "scikit-learn",
}
"""Distributions by the name that is imported, if the two names differ."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*\bextra == ['\"]([a-z]+)['\"]")
_FOR_DEVELOPERS = ("docs", "test")


class MissingPackageError(RuntimeError):
    """A package is not installed; the message says how to install it."""


def needed(module: str) -> Any:
    """Imports an optional package. Raises MissingPackageError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = remedy(error.name or module)
        if message is None:
            raise
        raise MissingPackageError(message) from error


def remedy(module: str) -> str | None:
    """How to install a missing module; None unless an extra of this distribution has its package."""
    package = module.partition(".")[0]
    extras = _extras(_DISTRIBUTIONS.get(package, package))
    if not extras:
        return None
    commands = " or ".join(f"pip install 'cosmicai[{extra}]'" for extra in extras)
    return f"{package}, which this needs, is not installed: {commands}"


def _extras(distribution: str) -> list[str]:
    """The extras that name a distribution; [] if cosmicai itself is not installed."""
    try:
        requirements = metadata.requires("cosmicai") or []
    except metadata.PackageNotFoundError:
        return []
    matches = (_REQUIREMENT.match(requirement) for requirement in requirements)
    pairs = (match.groups() for match in matches if match)
    return [extra for name, extra in pairs if name == distribution and extra not in _FOR_DEVELOPERS]

"""The errors that functions of `cosmicai` raise; each message says what is wrong, where, and what to do."""

from cosmicai.data.photometry import PhotometryError
from cosmicai.deploy.target import TargetError
from cosmicai.packaging.extras import MissingPackageError
from cosmicai.results.catalogue import CatalogueError
from cosmicai.results.outputs import OutputError
from cosmicai.results.report import ResultsError
from cosmicai.runs.client import RunError
from cosmicai.runs.deployment import RunFailed
from cosmicai.runs.infer import InferenceError, InputError
from inference.engine.config import ConfigError
from inference.engine.interface import EngineError
from initialize.payload import PayloadError
from initialize.plan import PlanError

__all__ = [
    "CatalogueError",
    "ConfigError",
    "EngineError",
    "InferenceError",
    "InputError",
    "MissingPackageError",
    "OutputError",
    "PayloadError",
    "PhotometryError",
    "PlanError",
    "ResultsError",
    "RunError",
    "RunFailed",
    "TargetError",
]

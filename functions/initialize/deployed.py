"""What a run's plan depends on besides its payload and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .contract.channels import Host
from .contract.pricing import BILLED_AS
from .model_folder import Model


@dataclass(frozen=True)
class Deployed:
    """What this deployment allows. concurrency: ranks that can run at once; is_running: whether an execution
    runs, by its name; memory_mb: of the inference function, 0 where that is not known; has_rendezvous: whether
    there is a host on which ranks find each other; has_batch: whether ranks may be jobs of AWS Batch; host:
    looks for that host, where something depends on it; architecture: of the inference function; bundled: the
    network of the inference image."""

    allow_scripts: bool
    has_redis: bool
    concurrency: Callable[[], int]
    is_running: Callable[[str], bool]
    memory_mb: int = 0
    has_rendezvous: bool = True
    has_batch: bool = False
    host: Callable[[], Host] = lambda: Host("absent", "no rendezvous host is known")
    architecture: str = BILLED_AS
    bundled: Model = field(default_factory=Model)

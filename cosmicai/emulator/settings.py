"""What the emulator's owner tells the plugin inside LocalStack, carried in environment variables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

_PREFIX = "COSMICAI_EMULATOR_"


class UnknownImage(LookupError):
    """A Lambda function names an image for which no task folder was assembled."""


@dataclass(frozen=True)
class Settings:
    """python: a bare virtual environment; runtime: what Lambda's zip runtime brings (awslambdaric,
    boto3); images: one task folder per image name; sandboxes: where processes get their scratch folders;
    concurrency: invocations that run at once; express_seconds: after which an Express execution ends."""

    python: Path
    runtime: Path
    images: Path
    sandboxes: Path
    concurrency: int
    express_seconds: int

    def to_environment(self) -> dict[str, str]:
        return {_PREFIX + name.upper(): str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls, environment: dict[str, str]) -> Settings:
        value = {k.removeprefix(_PREFIX).lower(): v for k, v in environment.items() if k.startswith(_PREFIX)}
        paths = {name: Path(value[name]) for name in ("python", "runtime", "images", "sandboxes")}
        return cls(
            **paths, concurrency=int(value["concurrency"]), express_seconds=int(value["express_seconds"])
        )

    def image_folder(self, uri: str) -> Path:
        """The task folder of an image URI: its last path component without tag or digest names it."""
        name = uri.rpartition("/")[2].partition("@")[0].partition(":")[0]
        folder = self.images / name
        if not name or not folder.is_dir():
            raise UnknownImage(f"image {uri}: no task folder {name} was assembled under {self.images}")
        return folder

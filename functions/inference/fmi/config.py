"""FMI's configuration: the back ends, how to reach them, and the figures by which the model chooses one.

    {"backends": {"Direct": {"enabled": true, "host": "203.0.113.7", "port": 10000, "max_timeout": 1000},
                  "Redis": {"enabled": true, "host": "198.51.100.2", "port": 6379, "max_timeout": 1000},
                  "S3": {"enabled": true, "bucket_name": "team3", "s3_region": "eu-central-1",
                         "timeout": 100, "max_timeout": 1000}},
     "model": {"FaaS": {"gib_second_price": 0.0000166667},
               "Direct": {"bandwidth": 400.0, "overhead": 0.34, …}, "Redis": {…}, "S3": {…}}}

Numbers and booleans may be strings. max_timeout is in milliseconds, for a whole operation. If only one back end
is enabled, `model` is not needed. There are three additions to FMI's form: "secret" of Direct is the key of the
run in hexadecimal digits; "relay_key" of Direct is that of the rendezvous host, or s3://BUCKET/KEY of an object
that holds it; and "keep" of S3 leaves messages in the bucket after they were read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .channel import Channel
from .direct import PORT, Direct
from .errors import RelayRefused
from .stores import S3, Redis

_REDIS_PORT = 6379
_TIMEOUT = 30_000  # ms of an operation, if the configuration has no max_timeout
_NEEDED = {"Direct": "host", "Redis": "host", "S3": "bucket_name"}


@dataclass(frozen=True)
class Configuration:
    """back_ends: settings of those that are enabled, by name; figures: `model`."""

    path: Path
    back_ends: dict[str, dict[str, Any]]
    figures: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """Raises FileNotFoundError, or ValueError that names the faulty field."""
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"config_path: there is no file {path}; in a script of a run, os.environ['FMI_CONFIG'] is one"
            ) from None
        except ValueError as error:
            raise ValueError(f"config_path: {path} is not JSON: {error}") from error
        back_ends, figures = (_object(content, name, f"{path}: {name}") for name in ("backends", "model"))
        enabled = {
            name: settings
            for name in back_ends
            if _is_true((settings := _object(back_ends, name, f"{path}: backends.{name}")).get("enabled"))
        }
        if not enabled:
            raise ValueError(f"{path}: no back end is enabled; give backends.Direct with enabled and host")
        for name, settings in enabled.items():
            if name not in _NEEDED:
                raise ValueError(f"{path}: backends.{name} is unknown; give {' or '.join(_NEEDED)}")
            if not settings.get(_NEEDED[name]):
                raise ValueError(f"{path}: backends.{name}.{_NEEDED[name]} is missing; give it")
        return cls(path, enabled, figures)

    def open(self, name: str, rank: int, size: int, comm_name: str) -> Channel:
        """This rank's channel over a back end."""
        return _OPENERS[name](
            _Part(f"{self.path}: backends.{name}", self.back_ends[name]), rank, size, comm_name
        )

    def seconds(self, name: str) -> float:
        """How long an operation over a back end may take."""
        part = _Part(f"{self.path}: backends.{name}", self.back_ends[name])
        return part.number("max_timeout", _TIMEOUT) / 1000


@dataclass(frozen=True)
class _Part:
    """A back end's settings, and their place in the configuration."""

    where: str
    settings: dict[str, Any]

    def number(self, key: str, default: float) -> float:
        value = self.settings.get(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(
                f"{self.where}.{key}: {value!r} is not a number above 0; give one, such as {default}"
            )
        return number

    def port(self, default: int) -> int:
        number = self.number("port", default)
        if number != int(number) or number > 65_535:
            raise ValueError(f"{self.where}.port: {number:g} is not a port; give 1 to 65535")
        return int(number)

    def secret(self) -> bytes | None:
        """The secret that only this group's ranks know; an addition to FMI's settings."""
        return self._digits("secret") or None

    def relay_key(self) -> Callable[[], bytes] | None:
        """A function that reads the rendezvous host's key when a relay is needed; None: no relays."""
        setting = self.settings.get("relay_key")
        if isinstance(setting, str) and setting.startswith("s3://"):
            return lambda: _object_of(setting)
        key = self._digits("relay_key")
        return (lambda: key) if key else None

    def _digits(self, name: str) -> bytes:
        try:
            return bytes.fromhex(self.settings.get(name) or "")
        except (TypeError, ValueError):
            raise ValueError(f"{self.where}.{name} must have only hexadecimal digits, in pairs") from None


def _object(content: Any, name: str, where: str) -> dict[str, Any]:
    value = content.get(name, {}) if isinstance(content, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object; give one, as in FMI's configuration")
    return value


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _object_of(url: str) -> bytes:
    """The content of an S3 object. Raises RelayRefused."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        content: bytes = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    except (BotoCoreError, ClientError) as error:
        raise RelayRefused(f"the rendezvous host's relay key, {url}, cannot be read: {error}") from error
    return content


def _direct(part: _Part, rank: int, size: int, comm_name: str) -> Channel:
    host = str(part.settings["host"])
    return Direct(rank, size, comm_name, host, part.port(PORT), part.secret(), part.relay_key())


def _s3(part: _Part, rank: int, size: int, comm_name: str) -> Channel:
    import boto3

    client = boto3.client("s3", region_name=part.settings.get("s3_region"))
    return S3(rank, size, comm_name, client, part.settings["bucket_name"], _is_true(part.settings.get("keep")))


def _redis(part: _Part, rank: int, size: int, comm_name: str) -> Channel:
    import redis

    client = redis.Redis(str(part.settings["host"]), part.port(_REDIS_PORT))
    return Redis(rank, size, comm_name, client, part.secret())


_OPENERS: dict[str, Callable[[_Part, int, int, str], Channel]] = {
    "Direct": _direct,
    "Redis": _redis,
    "S3": _s3,
}

"""`cosmicai local`: an embedded AWS with the bundle deployed, which stays up until it is told to go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from cosmicai.packaging import BuildFolder, ExtraPackages, assemble
from cosmicai.target import LOCAL

_UP_SECONDS = 300
_STATE, _LOG = "state.json", "log"
DEFAULTS = {"concurrency": 16, "image_variant": "lean", "extra_packages": []}
"""Ranks at once, variant of the inference image, packages beside its own."""


class LocalError(RuntimeError):
    """The embedded AWS could not be started, or another one runs; the message says why or what to do."""


def status(folder: Path = LOCAL) -> dict[str, Any] | None:
    """What runs: endpoint, bucket, state machine, pid; None where nothing does."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if psutil.pid_exists(state["pid"]):
        return state
    (folder / _STATE).unlink(missing_ok=True)  # its process was killed, and took the rest along
    return None


def up(asked: Mapping[str, Any], folder: Path = LOCAL) -> dict[str, Any]:
    """Starts it in the background and waits until the bundle is deployed; one that runs stays as it is.

    asked: what is to differ from DEFAULTS. Raises LocalError where one runs that was started otherwise, or it
    does not come up, and PackagingError where packages cannot be installed.
    """
    running = status(folder)
    if running is not None:
        _check_same(running, asked)
        return running
    settings = {**DEFAULTS, **asked}
    assemble(BuildFolder(), (settings["image_variant"],), ExtraPackages(tuple(settings["extra_packages"])))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOG).open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "cosmicai.local", str(folder), json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _UP_SECONDS
    try:
        while time.monotonic() < deadline:
            started = status(folder)
            if started is not None:
                return started
            if daemon.poll() is not None:
                break
            time.sleep(0.1)
    except BaseException:
        daemon.terminate()
        daemon.wait()
        raise
    daemon.terminate()
    tail = "\n".join((folder / _LOG).read_text(errors="replace").splitlines()[-15:])
    raise LocalError(f"the embedded AWS did not come up:\n{tail}")


def _check_same(running: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [name for name, value in asked.items() if running.get(name) != value]
    if differing:
        told = ", ".join(f"{name} {running.get(name)!r}, not {asked[name]!r}" for name in differing)
        raise LocalError(
            f"the embedded AWS runs already, with {told}: end it with `cosmicai local down`, which deletes all "
            "that is in it, and start it again"
        )


def down(folder: Path = LOCAL) -> bool:
    """Ends it with all that it holds; whether one ran."""
    running = status(folder)
    if running is None:
        return False
    try:
        process = psutil.Process(running["pid"])
        process.terminate()
        process.wait(60)
    except psutil.NoSuchProcess:
        pass
    (folder / _STATE).unlink(missing_ok=True)
    return True


def serve(folder: Path, settings: Mapping[str, Any]) -> None:
    """The process in the background, for functions that are assembled already."""
    from cosmicai.deployment import Deployment, emulated_variables
    from cosmicai.emulator import Emulator

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Emulator(BuildFolder(), settings["concurrency"]) as aws:
        image = settings["image_variant"], ExtraPackages(tuple(settings["extra_packages"]))
        variables = emulated_variables("local", aws, *image, allow_scripts=True)
        outputs = Deployment(aws.folder / "deployment", aws.environment).apply(variables)
        state = {
            "pid": os.getpid(),
            "endpoint": aws.endpoint,
            "environment": aws.environment,
            "bucket": outputs.bucket,
            "state_machine_arn": outputs.state_machine_arn,
            "rendezvous": aws.rendezvous,
            **settings,
        }
        partial = folder / f"{_STATE}.partial"
        partial.write_text(json.dumps(state, indent=1))
        partial.rename(folder / _STATE)
        try:
            while True:
                signal.pause()
        finally:
            (folder / _STATE).unlink(missing_ok=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))

"""`cosmicai local`: an embedded AWS with the bundle deployed, which stays up until it is told to go."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from cosmicai.emulator.localstack import is_healthy
from cosmicai.packaging import BuildFolder, ExtraPackages, assemble
from cosmicai.target import LOCAL

_UP_SECONDS, _DOWN_SECONDS, _ANSWER_SECONDS = 300, 60, 10
_WATCH_SECONDS = 0.3  # between looks at whether LocalStack still runs
_STATE, _LOG, _LOCK = "state.json", "log", "lock"
DEFAULTS = {"concurrency": 16, "image_variant": "lean", "extra_packages": []}
"""Ranks at once, variant of the inference image, packages beside its own."""


class LocalError(RuntimeError):
    """The embedded AWS could not be started, or another one runs; the message says why or what to do."""


def running_state(folder: Path = LOCAL) -> dict[str, Any] | None:
    """What the process in the background has written: endpoint, bucket, state machine, pid; None where it has
    ended, though its process number may be another's by now."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
        return state if process_birth(state["pid"]) == state["birth"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def process_birth(pid: int) -> float | None:
    """When a process was created: with its number, this is its identity. None where there is none,
    or where it has ended and nobody has asked for its exit status yet.

    On Linux in clock ticks since boot, which a correction of the clock does not change; elsewhere a time in s.
    """
    try:
        if sys.platform == "linux":
            state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if state == "Z" else float(numbers[18])
        return psutil.Process(pid).create_time()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def status(folder: Path = LOCAL) -> dict[str, Any] | None:
    """What runs, as running_state(), after it has answered; None where nothing runs.

    Raises LocalError where its process lives and does not answer.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (state := running_state(folder)) is not None:
        if is_healthy(state["endpoint"], _ANSWER_SECONDS):
            return state
        if time.monotonic() > deadline:
            raise LocalError(
                f"the embedded AWS (process {state['pid']}) has not answered for {_ANSWER_SECONDS} s: try "
                "again, or end it with `cosmicai local down`, which deletes all that is in it"
            )
        time.sleep(0.1)  # its process notices when LocalStack has died, and ends
    return None


def up(asked: Mapping[str, Any], folder: Path = LOCAL) -> dict[str, Any]:
    """Starts it in the background and waits until the bundle is deployed; one that runs stays as it is.

    Of two at once, the second waits for the first. asked: what is to differ from DEFAULTS. Raises LocalError
    where one runs that was started otherwise, or it does not come up, and PackagingError where packages cannot
    be installed.
    """
    with _locked(folder):
        running = status(folder)
        if running is not None:
            _check_same(running, asked)
            return running
        (folder / _STATE).unlink(missing_ok=True)  # of one that was killed
        settings = {**DEFAULTS, **asked}
        assemble(BuildFolder(), (settings["image_variant"],), ExtraPackages(tuple(settings["extra_packages"])))
        return _started(settings, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time; the lock of one that was killed is free."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _started(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    theirs, ours = os.pipe()  # ours is closed when this process ends, in whatever way: see _end_with
    with os.fdopen(ours, "w"):
        with os.fdopen(theirs) as pipe, (folder / _LOG).open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "cosmicai.local", str(folder), json.dumps(settings)],
                stdin=pipe,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _deployed(daemon, folder)


def _deployed(daemon: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """The state that the process in the background writes once the bundle is deployed."""
    try:
        deadline = time.monotonic() + _UP_SECONDS
        while time.monotonic() < deadline and daemon.poll() is None:
            started = running_state(folder)
            if started is not None:
                daemon.returncode = 0  # it outlives this process, which must not wait for it
                return started
            time.sleep(0.1)
    except BaseException:
        daemon.terminate()
        daemon.wait()
        raise
    daemon.terminate()
    daemon.wait()
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
    with _locked(folder):
        running = running_state(folder)
        if running is not None:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(running["pid"])
                if process_birth(process.pid) == running["birth"]:  # from here on psutil watches over it
                    process.terminate()
                    process.wait(_DOWN_SECONDS)
        (folder / _STATE).unlink(missing_ok=True)
        return running is not None


def serve(folder: Path, settings: Mapping[str, Any]) -> None:
    """The process in the background, for functions that are assembled already."""
    from cosmicai.deployment import Deployment, emulated_variables
    from cosmicai.emulator import Emulator

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    deployed = threading.Event()
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(), deployed), daemon=True).start()
    with Emulator(BuildFolder(), settings["concurrency"]) as aws:
        image = settings["image_variant"], ExtraPackages(tuple(settings["extra_packages"]))
        variables = emulated_variables("local", aws, *image, allow_scripts=True)
        outputs = Deployment(aws.folder / "deployment", aws.environment).apply(variables)
        state = {
            "pid": os.getpid(),
            "birth": process_birth(os.getpid()),
            "endpoint": aws.endpoint,
            "environment": aws.environment,
            "bucket": outputs.bucket,
            "state_machine_arn": outputs.state_machine_arn,
            "rendezvous": aws.rendezvous,
            **settings,
        }
        partial = folder / f"{_STATE}.partial"
        partial.write_text(json.dumps(state, indent=1))
        deployed.set()
        try:
            partial.rename(folder / _STATE)
            while aws.alive:
                time.sleep(_WATCH_SECONDS)
            print("one of its processes has ended; the embedded AWS ends", flush=True)
        finally:
            (folder / _STATE).unlink(missing_ok=True)


def _end_with(pipe: int, deployed: threading.Event) -> None:
    """Ends this process when the `up` that started it is gone before the bundle was deployed."""
    os.read(pipe, 1)  # nothing is ever written: it returns when the pipe is closed
    if not deployed.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))

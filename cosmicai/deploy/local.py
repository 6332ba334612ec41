"""`cosmicai local`: an embedded AWS with the bundle deployed, which runs until it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from cosmicai.emulator.localstack import is_healthy
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.packages import ExtraPackages
from cosmicai.packaging.places import BuildFolder
from cosmicai.processes import process_birth

_UP_SECONDS, _DOWN_SECONDS, _ANSWER_SECONDS = 900, 60, 10
_WATCH_SECONDS = 0.3  # between looks at whether LocalStack still runs
_STATE, _LOG, _LOCK = "state.json", "log", "lock"
DEFAULTS = {"concurrency": 16, "image_variant": "lean", "extra_packages": []}
"""Ranks at once, variant of the inference image, packages in addition to its own."""
_STEP = "step: "  # begins a line of the log
_INSTALLING, _STARTING, _DEPLOYING = (
    "installing the packages that are missing",
    "starting the embedded AWS",
    "deploying the bundle to it",
)

Report = Callable[[str], None]
"""Called with the step that begins."""


class LocalError(RuntimeError):
    """The embedded AWS could not be started, or another one runs; the message says why and what to do."""


def running_state(folder: Path) -> dict[str, Any] | None:
    """What the background process has written: endpoint, bucket, state machine, pid.

    None if it has ended, even if another process has its number by now.
    """
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return state if process_birth(state["pid"]) == state["birth"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def status(folder: Path) -> dict[str, Any] | None:
    """The state of the embedded AWS that runs, once it has answered; None if none runs.

    Raises LocalError if its process is alive but does not answer.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (state := running_state(folder)) is not None:
        if is_healthy(state["endpoint"], _ANSWER_SECONDS):
            return state
        if time.monotonic() > deadline:
            raise LocalError(
                f"the embedded AWS (process {state['pid']}) has not answered for {_ANSWER_SECONDS} s: try "
                "again, or stop it with `cosmicai local down`, which deletes everything in it"
            )
        time.sleep(0.1)  # its process notices when LocalStack has died, and ends
    return None


def up(asked: Mapping[str, Any], folder: Path, report: Report = lambda step: None) -> dict[str, Any]:
    """Starts it in the background and waits until the bundle is deployed; one that runs stays as it is.

    Of two calls at once, the second waits for the first. asked: settings that differ from DEFAULTS. Raises
    LocalError if one with other settings runs or if it does not start, and PackagingError if packages cannot be
    installed.
    """
    with _locked(folder):
        running = status(folder)
        if running is not None:
            _check_same(running, asked)
            return running
        (folder / _STATE).unlink(missing_ok=True)  # of one that was killed
        settings = {**DEFAULTS, **asked}
        report(_INSTALLING)
        assemble(BuildFolder(), (settings["image_variant"],), ExtraPackages(tuple(settings["extra_packages"])))
        return _started(settings, folder, report)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time; the lock of one that was killed is free."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _started(settings: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    theirs, ours = os.pipe()  # ours is closed when this process ends, in whatever way: see _end_with
    with os.fdopen(ours, "w"):
        with os.fdopen(theirs) as pipe, (folder / _LOG).open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "cosmicai.deploy.local", str(folder), json.dumps(settings)],
                stdin=pipe,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _deployed(daemon, folder, report)


def _deployed(daemon: subprocess.Popen[bytes], folder: Path, report: Report) -> dict[str, Any]:
    """The state that the background process writes once the bundle is deployed. Raises LocalError."""
    step = _STARTING
    try:
        deadline = time.monotonic() + _UP_SECONDS
        while time.monotonic() < deadline and daemon.poll() is None:
            step = _step(folder) or step
            report(step)
            started = running_state(folder)
            if started is not None:
                daemon.returncode = 0  # it outlives this process, which must not wait for it
                return started
            time.sleep(0.1)
    except BaseException:
        daemon.terminate()
        daemon.wait()
        raise
    late = daemon.poll() is None
    daemon.terminate()
    daemon.wait()
    if late:
        raise LocalError(
            f"the embedded AWS is not up after {_UP_SECONDS} s; it was {step}: is this machine busy? try again"
        )
    tail = "\n".join((folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise LocalError(f"the embedded AWS did not come up; it ended while {step}:\n{tail}")


def _step(folder: Path) -> str | None:
    """The last step that the background process has begun."""
    lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.removeprefix(_STEP) for line in reversed(lines) if line.startswith(_STEP)), None)


def _check_same(running: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [name for name, value in asked.items() if running.get(name) != value]
    if differing:
        others = ", ".join(f"{name} {running.get(name)!r}, not {asked[name]!r}" for name in differing)
        raise LocalError(
            f"an embedded AWS is running already, with {others}: stop it with `cosmicai local down`, which "
            "deletes everything in it, and start it again"
        )


def down(folder: Path) -> bool:
    """Stops it and deletes everything in it; returns whether one was running."""
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


def serve(folder: Path, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """The background process; the functions have been assembled already."""
    from cosmicai.deploy.terraform import Deployment, emulated_variables
    from cosmicai.emulator import Emulator

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    deployed = threading.Event()
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(), deployed), daemon=True).start()
    print(f"{_STEP}{_STARTING}", flush=True)
    with Emulator(BuildFolder(), settings["concurrency"]) as aws:
        print(f"{_STEP}{_DEPLOYING}", flush=True)
        image = settings["image_variant"], ExtraPackages(tuple(settings["extra_packages"]))
        variables = emulated_variables("local", aws, *image, inference={"allow_scripts": True})
        outputs = Deployment(aws.folder / "deployment", aws.environment, environment).apply(variables)
        aws.publish_relay_key(outputs.bucket)
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
    """Ends this process if the `up` that started it ends before the bundle is deployed."""
    os.read(pipe, 1)  # nothing is ever written: it returns when the pipe is closed
    if not deployed.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]), os.environ)

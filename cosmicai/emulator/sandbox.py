"""Lambda's execution environments as processes: the Runtime API, limits, reports and reuse.

A sandbox is one `python -m MODULE HANDLER` over a task folder, which asks a loopback server for
invocations (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). A pool keeps idle sandboxes for
warm starts and lets further invocations queue at its concurrency limit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import psutil

from cosmicai.emulator.place import isolated, shared

INIT_LIMIT_SECONDS = 10.0  # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
_POLL_SECONDS = 0.02
_MIB = 1024 * 1024
T = TypeVar("T")
_API = "/2018-06-01/runtime"


@dataclass(frozen=True)
class Function:
    """What a sandbox needs to know about one version of a Lambda function."""

    key: str
    arn: str
    version: str
    handler: str
    task_folder: Path
    python: Path  # folder of a bare virtual environment
    runtime: Path | None  # what Lambda's runtime adds to the task folder, for zip functions
    environment: dict[str, str]
    memory_mb: int
    timeout_seconds: int
    module: str = "awslambdaric"  # that Python runs with the handler's name


@dataclass(frozen=True)
class Invocation:
    request_id: str
    payload: bytes
    trace_id: str


@dataclass(frozen=True)
class Outcome:
    """What Lambda answers: the payload, whether it is an error, and the log of this invocation."""

    payload: bytes
    is_error: bool
    log: str


class _Failure(Exception):
    """The sandbox cannot continue; `kind` is Lambda's error type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class _Delivery:
    invocation: Invocation
    deadline: float
    answer: Future[tuple[bytes, bool]] = field(default_factory=Future)


class Sandbox:
    """One process of a function. Not thread-safe: the pool hands it to one invocation at a time."""

    def __init__(self, function: Function, folder: Path) -> None:
        self.function = function
        self.initialised = False
        self._folder = folder / uuid.uuid4().hex
        self._scratch = self._folder / "tmp"
        self._scratch.mkdir(parents=True)
        self._log_path = self._folder / "log"
        self._log_offset = 0
        self._peak_mb = 0.0
        self._ready: Future[None] = Future()
        self._next: SimpleQueue[_Delivery | None] = SimpleQueue()
        self._current: _Delivery | None = None
        self._server = _runtime_api(self)
        self._started = time.monotonic()
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        place = isolated(self.function, self._scratch) or shared(self.function, self._scratch)
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "OMP_WAIT_POLICY": "PASSIVE",  # sandboxes share this machine's cores: waiting threads must not spin
            **self.function.environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "LAMBDA_TASK_ROOT": str(place.task),
            "HOME": str(place.scratch),
            "TMPDIR": str(place.scratch),
            "_HANDLER": self.function.handler,
        }
        if place.runtime is not None:
            environment["PYTHONPATH"] = str(place.runtime)
        python = str(place.python / "bin" / "python")
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                [*place.enter, python, "-m", self.function.module, self.function.handler],
                cwd=self.function.task_folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def invoke(self, invocation: Invocation) -> tuple[Outcome, bool]:
        """The outcome, and whether the sandbox can serve another invocation."""
        init_ms, alive = 0.0, True
        began = time.monotonic()
        try:
            if not self.initialised:
                self._wait(self._ready, self._started + INIT_LIMIT_SECONDS + self.function.timeout_seconds)
                self.initialised = True
                began = time.monotonic()
                init_ms = (began - self._started) * 1000
            payload, is_error = self._deliver(invocation, began)
        except _Failure as failure:
            alive = False
            message = f"RequestId: {invocation.request_id} Error: {failure}"
            payload, is_error = json.dumps({"errorType": failure.kind, "errorMessage": message}).encode(), True
            self.stop_process()
        log = self._report(invocation, (time.monotonic() - began) * 1000, init_ms, payload if is_error else b"")
        return Outcome(payload, is_error, log), alive

    def _deliver(self, invocation: Invocation, began: float) -> tuple[bytes, bool]:
        delivery = _Delivery(invocation, began + self.function.timeout_seconds)
        self._current = delivery
        self._next.put(delivery)
        return self._wait(delivery.answer, delivery.deadline)

    def _wait(self, future: Future[T], deadline: float) -> T:
        """The future's result; raises _Failure when the process ends, grows too large or is too slow.

        A busy machine may look at the memory too late, so the peak is checked once more at the end.
        """
        while True:
            try:
                result = future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                self._check_memory()
            else:
                self._check_memory()
                return result
            status = self._process.poll()
            if status is not None and not future.done():
                raise _Failure("Runtime.ExitError", f"Runtime exited with error: {_exit_text(status)}")
            if time.monotonic() > deadline:
                limit = f"{self.function.timeout_seconds:.2f}"
                raise _Failure("Sandbox.Timedout", f"Task timed out after {limit} seconds")

    def _check_memory(self) -> None:
        self._peak_mb = max(self._peak_mb, _resident_mb(self._process.pid))
        if self._peak_mb > self.function.memory_mb:
            raise _Failure(
                "Runtime.OutOfMemory",
                f"Runtime exited with error: signal: killed (memory size {self.function.memory_mb} MB, "
                f"used {self._peak_mb:.0f} MB)",
            )

    def _report(self, invocation: Invocation, ran_ms: float, init_ms: float, error: bytes) -> str:
        self._peak_mb = max(self._peak_mb, _resident_mb(self._process.pid))
        request = f"RequestId: {invocation.request_id}"
        report = [
            f"REPORT {request}",
            f"Duration: {ran_ms:.2f} ms",
            f"Billed Duration: {math.ceil(ran_ms + init_ms)} ms",  # init is billed since August 2025
            f"Memory Size: {self.function.memory_mb} MB",
            f"Max Memory Used: {math.ceil(min(self._peak_mb, self.function.memory_mb))} MB",
        ]
        report += [f"Init Duration: {init_ms:.2f} ms"] if init_ms else []
        lines = [f"START {request} Version: {self.function.version}", self._new_log()]
        lines += [error.decode(errors="replace")] if error else []
        return "\n".join([*lines, f"END {request}", "\t".join(report)]) + "\n"

    def _new_log(self) -> str:
        with self._log_path.open("rb") as log:
            log.seek(self._log_offset)
            text = log.read()
            self._log_offset = log.tell()
        return text.decode(errors="replace").rstrip("\n")

    def stop_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.stop_process()
        self._next.put(None)
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # What the Runtime API's server calls, in its own threads.

    def next_invocation(self) -> _Delivery | None:
        if not self._ready.done():
            self._ready.set_result(None)
        return self._next.get()

    def answer(self, request_id: str, payload: bytes, is_error: bool) -> bool:
        delivery = self._current
        if delivery is None or delivery.invocation.request_id != request_id or delivery.answer.done():
            return False
        delivery.answer.set_result((payload, is_error))
        return True

    def init_error(self, payload: bytes) -> None:
        with contextlib.suppress(ValueError):
            fault = json.loads(payload)
            if not self._ready.done():
                self._ready.set_exception(
                    _Failure(fault.get("errorType", "Runtime.Unknown"), fault.get("errorMessage", ""))
                )


def _exit_text(status: int) -> str:
    return f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and all that descends from it, in MiB: what they hold now, or, if that is
    more, the peak of the largest of them, which Linux remembers."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
        return max(sum(map(_resident, tree)), *map(_peak, tree)) / _MIB
    return 0.0


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _peak(process: psutil.Process) -> int:
    """Bytes; 0 if the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return 0


def _runtime_api(sandbox: Sandbox) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"{_API}/invocation/next":
                return self._reply(404, b"")
            delivery = sandbox.next_invocation()
            if delivery is None:
                self.close_connection = True
                return None
            remaining = delivery.deadline - time.monotonic()
            headers = {
                "Lambda-Runtime-Aws-Request-Id": delivery.invocation.request_id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + remaining) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": sandbox.function.arn,
                "Lambda-Runtime-Trace-Id": delivery.invocation.trace_id,
                "Content-Type": "application/json",
            }
            return self._reply(200, delivery.invocation.payload, headers)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match self.path.removeprefix(_API).strip("/").split("/"):
                case ["invocation", request_id, ("response" | "error") as kind]:
                    known = sandbox.answer(request_id, body, kind == "error")
                    return self._reply(202 if known else 400, b"{}")
                case ["init", "error"]:
                    sandbox.init_error(body)
                    return self._reply(202, b"{}")
            return self._reply(404, b"")

        def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


class SandboxPool:
    """Sandboxes of all functions; at most `concurrency` invocations run at once, the others wait."""

    def __init__(self, folder: Path, concurrency: int) -> None:
        self._folder = folder
        self._slots = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._idle: defaultdict[str, list[Sandbox]] = defaultdict(list)
        self._retired: set[str] = set()

    def invoke(self, function: Function, invocation: Invocation) -> Outcome:
        with self._slots, self._sandbox(function) as (sandbox, keep):
            outcome, alive = sandbox.invoke(invocation)
            if alive:
                keep()
            return outcome

    @contextlib.contextmanager
    def _sandbox(self, function: Function) -> Iterator[tuple[Sandbox, Callable[[], None]]]:
        with self._lock:
            idle = self._idle[function.key]
            sandbox = idle.pop() if idle else None
        sandbox = sandbox or Sandbox(function, self._folder)
        kept = False

        def keep() -> None:
            nonlocal kept
            kept = True

        try:
            yield sandbox, keep
        finally:
            with self._lock:
                kept = kept and function.key not in self._retired
                if kept:
                    self._idle[function.key].append(sandbox)
            if not kept:
                sandbox.close()

    def retire(self, key: str) -> None:
        """Ends the idle sandboxes of a function version that is updated or deleted."""
        with self._lock:
            self._retired.add(key)
            idle = self._idle.pop(key, [])
        for sandbox in idle:
            sandbox.close()

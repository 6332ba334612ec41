"""Sandboxes behave as Lambda's: limits, errors, reuse, queueing, reports. The functions are real processes."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cosmicai.emulator import sandbox
from cosmicai.emulator.sandbox import Function, Invocation, Outcome, SandboxPool
from cosmicai.packaging.places import BuildFolder

Define = Callable[..., Function]


@pytest.fixture
def define(build: BuildFolder, tmp_path: Path) -> Define:
    """A function whose module f.py has the given source."""

    def make(source: str, memory_mb: int = 256, timeout_seconds: int = 20) -> Function:
        folder = tmp_path / "task"
        folder.mkdir(exist_ok=True)
        (folder / "f.py").write_text(textwrap.dedent(source))
        return Function(
            key="f",
            arn="arn:aws:lambda:us-east-1:000000000000:function:f",
            version="$LATEST",
            handler="f.handler",
            task_folder=folder,
            python=build.python,
            runtime=build.runtime,
            environment={"AWS_LAMBDA_FUNCTION_NAME": "f"},
            memory_mb=memory_mb,
            timeout_seconds=timeout_seconds,
        )

    return make


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[SandboxPool]:
    before = set(psutil.Process().children())
    pool = SandboxPool(tmp_path / "sandboxes", concurrency=2)
    yield pool
    pool.retire("f")
    assert list((tmp_path / "sandboxes").glob("*")) == []
    assert set(psutil.Process().children()) <= before


def _invoke(pool: SandboxPool, function: Function, payload: object = None, request: str = "r1") -> Outcome:
    return pool.invoke(function, Invocation(request, json.dumps(payload).encode(), "Root=1"))


def test_a_cold_start_then_warm_ones_in_the_same_process(define: Define, pool: SandboxPool) -> None:
    function = define(
        """
        import os
        count = 0
        def handler(event, context):
            global count
            count += 1
            print("hello", event)
            return {"pid": os.getpid(), "count": count, "request": context.aws_request_id}
        """
    )
    first, second = (_invoke(pool, function, n, f"r{n}") for n in (1, 2))
    one, two = (json.loads(outcome.payload) for outcome in (first, second))
    assert (one["pid"], one["count"], one["request"]) == (two["pid"], 1, "r1")
    assert (two["count"], two["request"]) == (2, "r2")
    assert "Init Duration" in first.log
    assert "Init Duration" not in second.log
    assert "hello 1" in first.log
    assert "hello 1" not in second.log


def test_the_report_line_is_lambdas(define: Define, pool: SandboxPool) -> None:
    function = define("import time\ndef handler(event, context):\n    time.sleep(0.2)")
    log = _invoke(pool, function).log
    report = re.search(
        r"^REPORT RequestId: r1\tDuration: ([\d.]+) ms\tBilled Duration: (\d+) ms\tMemory Size: 256 MB\t"
        r"Max Memory Used: (\d+) MB\tInit Duration: ([\d.]+) ms$",
        log,
        re.MULTILINE,
    )
    assert report is not None, log
    duration, billed, used, init = map(float, report.groups())
    assert duration >= 200
    assert billed == pytest.approx(duration + init, abs=1.1)
    assert 10 <= used <= 256
    assert log.startswith("START RequestId: r1 Version: $LATEST\n")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise KeyError('no such galaxy')", "KeyError", "'no such galaxy'"),
        ("import os; os._exit(3)", "Runtime.ExitError", "Runtime exited with error: exit status 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "Runtime.ExitError",
            "Runtime exited with error: signal: SIGKILL",
        ),
        ("import time; time.sleep(60)", "Sandbox.Timedout", "Task timed out after 1.00 seconds"),
        (
            "x = bytearray(400_000_000); x[::4096] = b'1' * len(x[::4096])",
            "Runtime.OutOfMemory",
            "signal: killed",
        ),
    ],
)
def test_failures_are_lambdas_errors_and_the_next_invocation_works(
    define: Define, pool: SandboxPool, body: str, kind: str, message: str
) -> None:
    function = define(
        f"""
        def handler(event, context):
            if event == "fail":
                {body}
            return "well"
        """,
        timeout_seconds=1 if "sleep" in body else 20,
    )
    outcome = _invoke(pool, function, "fail")
    assert outcome.is_error
    error = json.loads(outcome.payload)
    assert error["errorType"] == kind
    assert message in error["errorMessage"]
    assert json.loads(_invoke(pool, function, "work").payload) == "well"


_BURST = "x = bytearray(400_000_000); x[::4096] = b'1' * len(x[::4096]); del x"


@pytest.mark.parametrize(
    "body",
    [
        _BURST,
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', \"{_BURST}; print(flush=True); input()\"], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE); child.stdout.readline()",
    ],
    ids=["itself", "a child"],
)
def test_a_peak_between_two_looks_at_the_memory_counts(
    define: Define, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """Memory that is taken and given back before a busy machine gets to look: Lambda would have ended it."""
    monkeypatch.setattr(sandbox, "_POLL_SECONDS", 60.0)
    function = define(f"def handler(event, context):\n    {body}\n    return 'well'")
    outcome = _invoke(pool, function)
    assert outcome.is_error
    error = json.loads(outcome.payload)
    assert error["errorType"] == "Runtime.OutOfMemory"
    assert re.search(r"memory size 256 MB, used (39|4\d)\d MB", error["errorMessage"])


def test_a_peak_while_the_module_is_imported_counts(
    define: Define, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_POLL_SECONDS", 60.0)
    function = define(f"{_BURST}\ndef handler(event, context):\n    return 'well'")
    outcome = _invoke(pool, function)
    assert outcome.is_error
    assert json.loads(outcome.payload)["errorType"] == "Runtime.OutOfMemory"


def test_a_function_that_forgot_a_requirement_fails(define: Define, pool: SandboxPool) -> None:
    """rich is installed in the environment that runs this test, and not in the function's."""
    function = define("import rich\ndef handler(event, context): pass")
    outcome = _invoke(pool, function)
    assert outcome.is_error
    error = json.loads(outcome.payload)
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'rich'" in error["errorMessage"]


def test_each_process_has_a_scratch_folder_of_its_own(define: Define, pool: SandboxPool) -> None:
    function = define(
        """
        import os, tempfile, time
        def handler(event, context):
            time.sleep(0.3)
            open(os.path.join(tempfile.gettempdir(), "mine"), "x").close()
            open("/tmp/mine too", "x" if tempfile.gettempdir() == "/tmp" else "a").close()
            return sorted(os.listdir(tempfile.gettempdir()))
        """
    )
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda n: _invoke(pool, function, request=f"r{n}"), range(2)))
    assert [outcome.is_error for outcome in outcomes] == [False, False], outcomes
    assert all("mine" in json.loads(outcome.payload) for outcome in outcomes)


def test_beyond_the_limit_invocations_wait_and_do_not_fail(define: Define, pool: SandboxPool) -> None:
    function = define(
        """
        import time
        def handler(event, context):
            start = time.time()
            time.sleep(0.3)
            return [start, time.time()]
        """
    )
    with ThreadPoolExecutor(7) as threads:
        outcomes = list(threads.map(lambda n: _invoke(pool, function, n, f"r{n}"), range(7)))
    spans = [json.loads(outcome.payload) for outcome in outcomes]
    assert not any(outcome.is_error for outcome in outcomes)
    for start, _ in spans:
        assert sum(a <= start < b for a, b in spans) <= 2


def test_children_of_a_function_end_with_it(define: Define, pool: SandboxPool) -> None:
    function = define(
        """
        import subprocess
        def handler(event, context):
            return subprocess.Popen(["sleep", "1000"]).pid if event == "start" else __import__("os")._exit(1)
        """
    )
    pid = json.loads(_invoke(pool, function, "start").payload)
    assert psutil.pid_exists(pid)
    _invoke(pool, function, "end")
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)

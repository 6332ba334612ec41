"""`cosmicai local up`: one at a time, no process of somebody else's ended, nothing left, nothing leaked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from cosmicai.deploy import local
from cosmicai.emulator.environment import direct, session, without_account
from cosmicai.packaging.places import BuildFolder
from cosmicai.processes import process_birth

COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


class Trap:
    """A foreign endpoint and proxy at once, which notes who asks it for what."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                requests.append(self.rfile.readline().decode(errors="replace"))
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.server.shutdown()
    trap.server.server_close()


@pytest.fixture
def hostile(trap: Trap) -> dict[str, str]:
    """An environment in which everything points to somebody else's AWS."""
    proxies = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    services = ("S3", "STS", "IAM", "SFN", "LAMBDA", "CLOUDWATCH_LOGS")
    return {
        **dict.fromkeys(proxies, trap.url),
        **{f"AWS_ENDPOINT_URL_{service}": trap.url for service in services},
        "AWS_ENDPOINT_URL": trap.url,
        "AWS_PROFILE": "nobody",
        "AWS_SESSION_TOKEN": "a-real-token",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "a-real-secret",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "TF_VAR_inference": "nonsense",
        "TF_CLI_ARGS_apply": "-destroy",
        "GATEWAY_LISTEN": "0.0.0.0:4566",
        "PROVIDER_OVERRIDE_S3": "nonsense",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "local"
    yield folder
    local.down(folder)
    assert _processes_of(folder) == []


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Daemons of this folder and all that descends from them or carries their marker."""
    marked = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.environ().get("COSMICAI_LOCAL", "")])
        except (psutil.Error, OSError):
            continue
        if str(folder) in text:
            marked.append(process)
    return marked


def _up(folder: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "COSMICAI_LOCAL": str(folder), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [COSMICAI, "local", "up", "--json"], env=variables, stdout=pipe, stderr=pipe, text=True
    )


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def test_its_whole_life(build: BuildFolder, folder: Path, hostile: dict[str, str], trap: Trap) -> None:
    """Two started at once are one; nothing of a hostile environment reaches it; when LocalStack dies it is not
    shown as running, and `up` starts a new one."""
    first, second = (_up(folder, **hostile) for _ in range(2))
    outputs = [process.communicate(timeout=200) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    state, other = (json.loads(output) for output, _ in outputs)
    assert state == other
    assert len([p for p in _processes_of(folder) if "cosmicai.deploy.local" in p.cmdline()]) == 1
    assert trap.requests == [], trap.requests

    listing = subprocess.run(
        [COSMICAI, "list", "--local"],
        env={**os.environ, **hostile, "COSMICAI_LOCAL": str(folder)},
        capture_output=True,
        text=True,
    )
    assert listing.returncode == 0, listing.stdout + listing.stderr
    assert trap.requests == []

    port = int(state["endpoint"].rpartition(":")[2])
    tree = psutil.Process(state["pid"]).children(recursive=True)
    (gateway,) = [p for p in tree if any(c.laddr.port == port for c in p.net_connections("tcp")
                                         if c.status == psutil.CONN_LISTEN)]  # fmt: skip
    inherited = gateway.environ()
    assert not [name for name in inherited if name.endswith(("_PROXY", "_proxy")) or name.startswith("TF_")]
    assert {name for name in inherited if name.startswith("AWS_")} == {
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
    assert "PROVIDER_OVERRIDE_S3" not in inherited
    gateway.kill()
    assert local.status(folder) is None
    assert local.up({}, folder)["pid"] != state["pid"]
    assert [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("moment", ["daemon", "deployment"])
def test_a_killed_up_leaves_no_daemon(build: BuildFolder, folder: Path, moment: str) -> None:
    """Killed when the daemon has just been started, and while Terraform applies."""
    with _up(folder) as waiting:
        sought = "cosmicai.deploy.local" if moment == "daemon" else "apply"
        _until(lambda: any(sought in p.cmdline() for p in _processes_of(folder) if p.is_running()))
        marked = _processes_of(folder)
        waiting.kill()
        waiting.wait()
    assert len(marked) >= 2
    _until(lambda: _processes_of(folder) == [], 30)
    assert local.status(folder) is None


@pytest.mark.parametrize("birth", [0.0, None])
def test_a_process_number_that_was_given_to_another_is_left_alone(folder: Path, birth: float | None) -> None:
    """The state names a pid that now is a foreign process's; None: written by an older release."""
    with subprocess.Popen(["sleep", "600"]) as foreign:
        state: dict[str, Any] = {"pid": foreign.pid, "endpoint": "http://127.0.0.1:1"}
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(state | ({} if birth is None else {"birth": birth})))
        assert local.status(folder) is None
        assert local.down(folder) is False
        assert foreign.poll() is None
        assert not (folder / "state.json").exists()
        foreign.kill()


def test_one_that_lives_and_does_not_answer_is_told_and_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_ANSWER_SECONDS", 0.3)
    with subprocess.Popen(["sleep", "600"]) as hung:
        state = {"pid": hung.pid, "birth": process_birth(hung.pid), "endpoint": "http://127.0.0.1:1"}
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(state))
        for ask in (local.status, lambda folder: local.up({}, folder)):
            with pytest.raises(local.LocalError, match=r"has not answered .* `cosmicai local down`"):
                ask(folder)
        assert hung.poll() is None
        assert local.down(folder) is True
        assert hung.poll() is not None


def test_a_zombie_is_no_process(folder: Path) -> None:
    ended = subprocess.Popen(["true"])
    _until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
    assert process_birth(ended.pid) is None
    ended.wait()


def test_clients_go_by_what_they_are_given(
    hostile: dict[str, str], trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own clients reach the endpoint that is meant, without the token and around the proxy."""
    meant = Trap()
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    client = session().client("s3", endpoint_url=meant.url, config=direct(retries={"total_max_attempts": 1}))
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        client.list_buckets()
    assert meant.requests
    assert trap.requests == []
    meant.server.shutdown()
    meant.server.server_close()


def test_terraform_gets_no_account_of_the_users(hostile: dict[str, str]) -> None:
    clean = without_account({**hostile, "PATH": "/bin", "NO_PROXY": "intranet"})
    assert not {name for name in clean if name.startswith(("AWS_", "TF_"))} - {
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
    assert clean["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert clean["PATH"] == "/bin"
    assert clean["HTTPS_PROXY"] == hostile["HTTPS_PROXY"]  # the registry of providers may lie beyond it

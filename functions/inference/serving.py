"""The inference container as an endpoint of SageMaker: a partition comes by HTTP, its redshifts go back.

GET /ping says that the network is loaded. POST /invocations takes a partition file and answers with CSV or JSON
lines, whichever `Accept` asks for. GET /execution-parameters tells Batch Transform how to send them.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from . import answers, process
from .answers import Table
from .body import BodyError, read_body
from .contract.event import RankEvent
from .contract.model_files import GRAPHS
from .data.partition import PartitionError
from .data.storage import Folder, LocalFolder, ObjectError, Storage
from .data.torchfile import Buffer, Source
from .rank import Rank
from .sandbox import Host, Sandbox

_MOST_MB = 100  # of a body: the most that Batch Transform sends with a length
_SILENT_SECONDS = 60  # after which a silent connection is closed
_DISCARDED = 1 << 30  # bytes of a refused body that are still read, so that its sender reads why
_DISCARD_SECONDS = 2  # of waiting for the next of them
_BODY = "the request's body"


@dataclass(frozen=True)
class Settings:
    """Settings that SageMaker, or whoever creates a model there, makes in the environment."""

    port: int = 8080
    model_folder: Path = Path("/opt/ml/model")  # where SageMaker unpacks the model that a job brings
    most_bytes: int = _MOST_MB << 20
    device: str = "cpu"
    engine: str = "auto"
    precision: str = "auto"
    max_bad_fraction: float = 0.05

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Raises ValueError for a value that should be a number and is not."""
        get = environment.get
        megabytes = int(get("SAGEMAKER_MAX_PAYLOAD_IN_MB") or 0) or _MOST_MB  # 0: sent in chunks
        return cls(
            int(get("SAGEMAKER_BIND_TO_PORT") or 8080),
            Path(get("SM_MODEL_DIR", "/opt/ml/model")),
            megabytes << 20,
            get("DEVICE", "cpu"),
            get("ENGINE", "auto"),
            get("PRECISION", "auto"),
            float(get("MAX_BAD_FRACTION", "0.05")),
        )

    @property
    def model(self) -> Path | None:
        """The unpacked model folder; None if there is none. Raises ValueError for another kind of folder."""
        if not self.model_folder.is_dir() or not any(self.model_folder.iterdir()):
            return None
        if not any((self.model_folder / name).is_file() for name in ("config.json", GRAPHS)):
            raise ValueError(
                f"{self.model_folder} holds no config.json and no {GRAPHS}: pack the files of a model "
                "folder, not the folder, "
                "as in `tar czf model.tar.gz -C models/mine .`"
            )
        return self.model_folder


class Predictor:
    """Runs a rank for each partition that is sent, with one network that stays loaded. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError for a model that cannot be loaded, or ObjectError."""
        model = settings.model
        self._request = _Request(b"")
        scratch = Path(tempfile.gettempdir())
        self._sandbox = Sandbox(lambda: self._request, Host.of_machine(scratch, settings.device))
        self._event = RankEvent(
            bucket="",
            world_size=1,
            data_bucket="",
            data_prefix="",
            result_path="",
            batch_size=256,
            run_id="request",
            model=None if model is None else str(model),
            engine=settings.engine,
            precision=settings.precision,
            max_bad_fraction=settings.max_bad_fraction,
            rank=0,
            data_paths=(_BODY,),
        )
        mapping = self._sandbox.model(self._event, self._request).choice.mapping
        self._columns = ("z_pred",) if mapping is None else mapping.columns

    def predictions(self, body: bytes) -> Table:
        """id, z_pred and flags of each galaxy of a partition file. For an imported network, its columns except
        vectors replace z_pred. Raises PartitionError."""
        self._request = _Request(body)
        try:
            Rank(self._event, self._sandbox).run()
            written = io.BytesIO(self._request.written["/predictions/0.npz"])
        finally:
            self._request = _Request(b"")
        with np.load(written) as arrays:
            ids = arrays["id"] if "id" in arrays else arrays["index"]
            columns = {name: arrays[name] for name in self._columns if arrays[name].ndim == 1}
            return {"id": ids, **columns, "flags": arrays["flags"]}


class _Request(Storage):
    """A rank's storage for one request: it reads the request's body and keeps in memory what is written."""

    def __init__(self, body: bytes) -> None:
        super().__init__(None)
        self._body = body
        self.written: dict[str, bytes] = {}

    def open(self, bucket: str, key: str) -> Source:
        return Buffer(self._body)

    def folder(self, bucket: str, prefix: str, cache: Path) -> Folder:
        return LocalFolder.of(self, Path(prefix))

    def write(self, bucket: str, key: str, body: bytes, content_type: str) -> None:
        self.written[key] = body


class Server(ThreadingHTTPServer):
    """Answers /ping at any time, and /invocations one at a time."""

    def __init__(self, host: str, settings: Settings, predictor: Predictor) -> None:
        super().__init__((host, settings.port), _Handler)
        self.settings, self.predictor = settings, predictor
        self.one_at_a_time = threading.Lock()


class _Refused(Exception):
    """A refused request: the status of the response, and a message with the reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "CosmicAI", ""
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/ping":
            self._send(200, "text/plain", b"")
        elif path == "/execution-parameters":
            megabytes = self.server.settings.most_bytes >> 20
            parameters = {
                "MaxConcurrentTransforms": 1,
                "BatchStrategy": "SINGLE_RECORD",
                "MaxPayloadInMB": megabytes,
            }
            self._send(200, "application/json", json.dumps(parameters).encode())
        elif path == "/invocations":
            self._refuse(405, "send the partition file by POST")
        else:
            self._refuse(404, "not found; the paths are /ping, /execution-parameters and /invocations")

    def do_POST(self) -> None:
        try:
            if self.path.partition("?")[0] != "/invocations":
                raise _Refused(404, "send the partition file to /invocations")
            self._send(200, *self._answer())
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        except (TimeoutError, ConnectionError):
            raise  # there is nobody left to answer
        except Exception as error:
            print(json.dumps({"message": "fault", "error": type(error).__name__, "cause": str(error)}))
            self._refuse(500, f"{type(error).__name__}: {error}")

    def _answer(self) -> tuple[str, bytes]:
        """The content type and the body of the response. Raises _Refused."""
        accept = self.headers.get("Accept", "*/*")
        kind = answers.chosen(accept)
        if kind is None:
            raise _Refused(406, f"Accept: {accept[:80]!r} is not available; ask for {answers.OFFERED}")
        with self.server.one_at_a_time:  # so that one body is in memory, too
            try:
                coding, length = self.headers.get("Transfer-Encoding"), self.headers.get("Content-Length")
                body = read_body(self.rfile, coding, length, self.server.settings.most_bytes)
                table = self.server.predictor.predictions(body)
            except BodyError as error:
                raise _Refused(error.status, str(error)) from error
            except PartitionError as error:
                raise _Refused(400, str(error)) from error
        return kind, answers.written(table, kind)

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{message}\n".encode())
        self._discard()

    def _discard(self) -> None:
        """Reads the rest of the body: a client that is still sending would otherwise not read the answer."""
        left = _DISCARDED
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_DISCARD_SECONDS)
            while left > 0 and (piece := self.connection.recv(1 << 16)):
                left -= len(piece)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs each request except SageMaker's pings, which come every few seconds."""
        if self.path != "/ping":
            print(json.dumps({"message": "request", "detail": format % args}), flush=True)


def serve(host: str = "0.0.0.0") -> None:  # noqa: S104 - SageMaker asks from outside the container
    """Serves until SIGTERM. host: the address to listen on."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = Settings.of(os.environ)
        server = Server(host, settings, Predictor(settings))
    except (ValueError, OSError, ObjectError) as error:
        raise SystemExit(f"error: {error}") from error
    with server:
        print(json.dumps({"message": "serving", "port": server.server_port, **process.versions()}), flush=True)
        server.serve_forever()

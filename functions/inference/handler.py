"""AWS Lambda's entry point of the inference container."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from . import importing, one_blas_thread  # noqa: F401
from .contract.event import RankEvent
from .contract.s3_rest.choice import new_client
from .data.storage import Storage
from .rank import Rank
from .sandbox import Host, Sandbox

# All of this happens in Lambda's init phase.
_host = Host.of_lambda(
    int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
    Path(tempfile.gettempdir()),
    os.environ.get("REDIS_HOST"),
)
_client = new_client(os.environ)
_sandbox = Sandbox(lambda: Storage(_client), _host)
_sandbox.prepare()
importing.ended()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """event: one element of manifest.json, with RENDEZVOUS where the run has a rendezvous host; or
    {"warm_up": true} after a deployment: all that it asks for, loading the model, has happened by now."""
    if event == {"warm_up": True}:
        return {"message": "loaded"}
    rank_event = RankEvent.from_json(event)
    print(json.dumps({"message": "rank starts", "rank": rank_event.rank, "run_id": rank_event.run_id}))
    result = Rank(rank_event, _sandbox, lambda: context.get_remaining_time_in_millis() / 1000).run()
    print(json.dumps({"message": "rank done", **result}))
    return result

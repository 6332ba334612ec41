"""`python -m cosmicai.model.onnxfile.child`: a request on standard input, and an answer in JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

MOST_MEMORY = 8 << 30  # bytes of addresses: less than the largest Lambda has
MOST_SECONDS = 120  # of CPU time
_MOST_FILE = 1 << 32  # bytes of a file that it writes


def main() -> None:
    """The answer is {"facts": …}, or {"refused": SENTENCE} for a file that is refused."""
    request = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE, _MOST_FILE))
    if sys.platform == "linux":  # macOS refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    from cosmicai.model.onnxfile.choosing import Asked
    from cosmicai.model.onnxfile.reading import OnnxFileError
    from cosmicai.model.onnxfile.writing import write

    try:
        facts = write(Path(request["file"]), Path(request["folder"]), Asked.from_json(request["asked"]))
        content: dict[str, object] = {"facts": facts}
    except OnnxFileError as error:
        content = {"refused": str(error)}
    except MemoryError:
        content = {"refused": f"needs more than {MOST_MEMORY >> 30} GB of memory"}
    with answer:
        answer.write(json.dumps(content))


if __name__ == "__main__":
    main()

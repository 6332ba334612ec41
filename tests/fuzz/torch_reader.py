"""A process that reads files by torch.load(weights_only=True) and says what it found there.

It is a process of its own because a pickle can hold torch up for ever, or kill it. `Reader` is what asks it.
The classes of AstroMAE and of its layers are allowed, and TensorDataset, so that whole modules are read too.
"""

from __future__ import annotations

import io
import pickle
import select
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_LENGTH = struct.Struct("<I")
_MOST_NODES = 200_000


class Node(NamedTuple):
    """An object: its kind, its value, and where its parts are among the nodes.

    kind: dict, list, tuple, object, tensor, value or other. value: names of the parts of a dict or object;
    dtype, shape and bytes of a tensor; the value itself of a number, text or None.
    """

    kind: str
    value: Any = None
    parts: tuple[int, ...] = ()


@dataclass
class Answer:
    """nodes: the root first; none where torch refused. outputs: of the network, where they were asked for."""

    refusal: str = ""
    nodes: list[Node] = field(default_factory=list)
    outputs: bytes = b""


class Reader:
    """Asks the process, which is started when it is needed and again when it does not answer."""

    def __init__(self, seconds: float = 5) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, file: bytes, network: str | None = None) -> Answer:
        """network: the key under which a network lies whose outputs are wanted."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        _send(process.stdin, pickle.dumps((file, network)))
        ready, _, _ = select.select([process.stdout], [], [], self._seconds)
        body = _received(process.stdout) if ready else b""
        if not body:
            self.close()
            return Answer("torch did not answer" if not ready else "torch was killed")
        answer: Answer = pickle.loads(body)  # noqa: S301 - our own process wrote it
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        command = [sys.executable, "-W", "ignore", "-c", f"from {__name__} import main; main()"]
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        _received(process.stdout)  # it has imported torch
        self._process = process
        return process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _send(stream: Any, body: bytes) -> None:
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _received(stream: Any) -> bytes:
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""


# The process


def main() -> None:
    import torch
    from torch.utils.data import TensorDataset

    from tests import foreign

    torch.set_num_threads(1)
    layers = [getattr(torch.nn, name) for name in _LAYERS]
    with foreign.modules(), torch.serialization.safe_globals([TensorDataset, *layers, *_classes()]):
        _send(sys.stdout.buffer, b"ready")
        while body := _received(sys.stdin.buffer):
            _send(sys.stdout.buffer, pickle.dumps(_answer(*pickle.loads(body))))  # noqa: S301


_LAYERS = (
    "Linear", "Conv2d", "LayerNorm", "BatchNorm2d", "Sequential", "ModuleList", "Dropout", "Identity", "GELU",
    "ReLU", "SiLU", "AvgPool2d", "MaxPool2d", "Flatten", "DataParallel",
)  # fmt: skip


def _classes() -> list[type]:
    from tests import foreign

    return [cls for classes in foreign.HOMES.values() for cls in classes.values()]


def _answer(file: bytes, network: str | None) -> Answer:
    import torch

    try:
        content = torch.load(io.BytesIO(file), weights_only=True)
        if network is None:
            return Answer(nodes=_nodes(content))
        return Answer(outputs=_outputs(content, network))
    except Exception as error:  # whatever torch raises is a refusal
        return Answer(f"{type(error).__name__}: {error}"[:300])


def _nodes(root: object) -> list[Node]:
    """Everything that is reached, each object once, however often and however deep it is referred to."""
    objects, places = [root], {id(root): 0}
    nodes: list[Node] = []
    while len(nodes) < len(objects):
        if len(objects) > _MOST_NODES:
            raise ValueError("more objects than are compared")
        kind, value, parts = _described(objects[len(nodes)])
        for part in parts:
            if id(part) not in places:
                places[id(part)] = len(objects)
                objects.append(part)
        nodes.append(Node(kind, value, tuple(places[id(part)] for part in parts)))
    return nodes


def _described(thing: Any) -> tuple[str, Any, list[object]]:
    import torch

    match thing:
        case torch.Tensor() if thing.layout is torch.strided and not (thing.is_complex() or thing.is_quantized):
            plain = thing.detach().resolve_neg()
            plain = plain.float() if plain.dtype is torch.bfloat16 else plain
            return "tensor", (str(plain.dtype), tuple(plain.shape), plain.contiguous().numpy().tobytes()), []
        case dict():
            named = {key: value for key, value in thing.items() if type(key) is str}
            return "dict", list(named), list(named.values())
        case list():
            return "list", None, list(thing)
        case tuple() if type(thing) is tuple:
            return "tuple", None, list(thing)
        case None | bool() | int() | float() | str():
            return "value", thing, []
        case torch.nn.Module() | torch.utils.data.TensorDataset():
            kind = type(thing)
            return (
                "object",
                [f"{kind.__module__}.{kind.__qualname__}", *vars(thing)],
                list(vars(thing).values()),
            )
    return "other", type(thing).__name__, []


def _outputs(content: Any, key: str) -> bytes:
    import torch

    from tests import foreign
    from tests.fuzz.seeds import SIZES

    for part in key.split(".") if key else ():
        content = content[int(part)] if isinstance(content, list | tuple) else content[part]
    if not isinstance(content, torch.nn.Module):
        module = foreign.astromae(**SIZES)
        module.load_state_dict({name.removeprefix("module."): value for name, value in content.items()})
        content = module
    content = content.module if isinstance(content, torch.nn.DataParallel) else content
    with torch.inference_mode():
        outputs = content.eval()(foreign.galaxies(2)).reshape(-1)
    return outputs.float().numpy().tobytes()

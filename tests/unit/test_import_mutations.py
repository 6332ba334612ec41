"""Whatever a stored module says of itself is changed, one thing at a time: what is imported follows torch's own
outputs of the changed module, or is refused. Nothing is imported with other outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosmicai.model.foreign import modules
from cosmicai.model.foreign.assumed import Assumed
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.files import File
from cosmicai.model.foreign.nodes import Tree
from cosmicai.model.foreign.ours import model_of
from inference.data.pickled import Record
from tests import foreign
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

_WORDS = ("same", "valid", "reflect", "tanh")
_GROUPS = {"cells": {"depth": 1}, "plain": {"depth": 1, "groups": 0}}


def _others(value: object) -> list[object]:
    """Values of the same kind, near and far; nothing for what is neither number, text, tuple nor None."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, -value]
        case float():
            return [value * 1.5 + 0.1, 0.0, -value]
        case str():
            return [word for word in _WORDS if word != value]
        case None:
            return [1, 0.5, True]
        case tuple() if all(isinstance(item, int) for item in value):
            return [tuple(item + 1 for item in value), (*value[:-1], value[-1] + 2), value[0]]
    return []


_REPEATED = tuple(f"inception_model.vis_inception.{place}." for place in (3, 5, 6))
"""InceptionBlocks like the first one: they would take minutes."""


def _attributes(model: nn.Module, part: str) -> Iterator[tuple[str, nn.Module, str, object]]:
    """Of every submodule; what torch gives to all modules alike, of one of each class."""
    classes: set[type] = set()
    base = nn.Module().__dict__.keys()
    for path, module in model.named_modules():
        for name, value in list(module.__dict__.items()):
            known = path.startswith(_REPEATED) or not path.startswith(part)
            if not known and (name not in base or type(module) not in classes):
                yield from ((path, module, name, other) for other in _others(value))
        classes.add(type(module))


def _outputs(model: nn.Module) -> Tensor | None:
    """None where torch itself refuses."""
    try:
        with torch.inference_mode():
            return model.eval()(foreign.galaxies(3)).squeeze(1)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, ZeroDivisionError, IndexError):
        return None


def _imported(file: File) -> Tensor | None:
    """None where it was refused."""
    content = file.content
    assert isinstance(content, Record)
    again = File(file.path, content, file.format, file.source)
    try:
        rebuilt = model_of(modules.read(content, Tree(again), Assumed()))
    except CheckpointError:
        return None
    with torch.inference_mode():
        return rebuilt(*foreign.galaxies(3))


def _record(file: File, path: str) -> dict[str, object]:
    """The attributes of a stored module."""
    record = file.content
    for name in path.split(".") if path else ():
        assert isinstance(record, Record)
        record = record.attributes["_modules"].named[name]
    assert isinstance(record, Record)
    return record.attributes


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    close = (ours - theirs).abs() <= 1e-5 * theirs.abs().clamp(min=1)
    return ours.shape == theirs.shape and bool((close | (ours.isnan() & theirs.isnan())).all())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", _GROUPS)
def test_no_changed_attribute_is_imported_wrongly(kind: str, tmp_path: Path) -> None:
    model = foreign.astromae(**_GROUPS[kind])
    file = File.open(foreign.save(model, tmp_path))
    wrong, imported, refused = [], 0, 0
    for path, module, name, other in _attributes(model, "blocks" if kind == "plain" else ""):
        before, stored = module.__dict__[name], _record(file, path)
        module.__dict__[name] = stored[name] = other
        ours = _imported(file)
        theirs = _outputs(model) if ours is not None else None
        module.__dict__[name] = stored[name] = before
        imported, refused = imported + (ours is not None), refused + (ours is None)
        if ours is not None and (theirs is None or not _agree(ours, theirs)):
            wrong.append(f"{path}.{name}: {before} -> {other}, torch {theirs}, imported {ours}")
    assert not wrong
    assert imported > 10, "some attributes change no result, or one that we compute"
    assert refused > 10


def test_every_weight_is_in_its_place(tmp_path: Path) -> None:
    """Each tensor is changed by itself: outputs change as torch's do."""
    model = foreign.astromae(depth=1)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.mul_(1 + 0.5 * torch.rand(tensor.shape, generator=generator)).add_(0.1)
        theirs, ours = _outputs(model), _imported(File.open(foreign.save(model, tmp_path)))
        assert ours is not None, name
        assert theirs is not None, name
        assert _agree(ours, theirs), name
        with torch.no_grad():
            tensor.copy_(before)

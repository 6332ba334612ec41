"""Which networks a checkpoint's content holds, under which keys.

Training scripts wrap networks in many ways: {'model': …, 'optimizer': …}, Lightning's checkpoints, copies
averaged over training (EMA) next to the network itself, a whole module in a dict. What looks like a network is
found wherever it is; if there are several, the user chooses one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from cosmicai.model.foreign.classes import kind_of
from cosmicai.model.foreign.errors import CheckpointError, listed, shown
from inference.data.pickled import Global, Pairs, Record, printable
from inference.data.tensors import Tensor

_DEPTH = 4  # of dicts and lists within each other, that networks are looked for in
_NETWORKS = 16  # in one state dict, at most
_NAMES, _NAME_LENGTH = 20_000, 300  # of tensors in a state dict, at most
ANCHOR = "patch_embed.proj.weight"  # every AstroMAE has one
_WRAPPERS = frozenset({"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})
"""What DataParallel, torch.compile and the like put into the names of what they wrap."""


@dataclass(frozen=True)
class Candidate:
    """A stored module, or tensors by name (a state dict), and the key that holds it."""

    key: str
    content: Record | dict[str, object]


def is_module(content: object) -> TypeGuard[Record]:
    if not isinstance(content, Record):
        return False
    kind = kind_of(content.dotted)
    return {"_modules", "_parameters"} <= content.attributes.keys() or (kind is not None and kind.is_wrapper)


def chosen(content: object, select: str | None) -> Candidate:
    """The one network of a content, or the one that `select` names. Raises CheckpointError that lists them."""
    networks = [one for candidate in _candidates(content) for one in _separated(candidate, select)]
    if select is not None:
        matches = [candidate for candidate in networks if candidate.key == select]
        if len(matches) != 1:
            keys = listed(candidate.key or "the whole file" for candidate in networks)
            raise CheckpointError(
                f"--select {printable(select)}: the file has no network of this name; it holds: {keys}"
            )
        return matches[0]
    if not networks:
        raise CheckpointError(f"holds no network: it is {_described(content)}")
    if len(networks) > 1:
        keys = listed((f"--select {shown(candidate.key)}" for candidate in networks), _NETWORKS)
        raise CheckpointError(f"holds {len(networks)} networks; say which is meant: {keys}")
    return networks[0]


def _candidates(content: object) -> Iterator[Candidate]:
    """Breadth first; everything is visited once, however often it is referred to."""
    level: list[tuple[tuple[str, ...], object]] = [((), content)]
    seen: set[int] = set()
    for _ in range(_DEPTH + 1):
        below: list[tuple[tuple[str, ...], object]] = []
        for names, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if is_module(value):
                yield Candidate(".".join(names), value)
            elif _is_state_dict(value):
                entries = {name: part for name, part in _items(value) if _is_entry(name, part)}
                yield Candidate(".".join(names), entries)
            else:
                below += [((*names, name), item) for name, item in _items(value) if len(name) <= _NAME_LENGTH]
        level = below


def _items(value: object) -> Iterable[tuple[str, object]]:
    match value:
        case Pairs():
            return value.named.items()
        case Record():
            return value.pairs.named.items()
        case list() | tuple():
            return ((str(index), item) for index, item in enumerate(value))
    return ()


def _is_state_dict(value: object) -> bool:
    """Whether it holds tensors by name, one of them a convolution's weight."""
    if not isinstance(value, Pairs | Record) or _holds_more(value):
        return False
    return any(isinstance(tensor, Tensor) and len(tensor.shape) == 4 for _, tensor in _items(value))


def _holds_more(value: Pairs | Record) -> bool:
    """Whether there may be entries in it that are not known by name."""
    if isinstance(value, Pairs):
        return bool(value.others)
    made_of = [part for part in value.arguments if not isinstance(part, Global)]  # a defaultdict has a class
    return bool(made_of or value.items or value.pairs.others)


def _is_entry(name: str, value: object) -> bool:
    """Whether it belongs to the network. The reader refuses what only has a tensor's name."""
    return isinstance(value, Tensor) or ("." in name and not name.endswith("_extra_state"))


def _described(content: object) -> str:
    match content:
        case Pairs() if content.named:
            return f"a dict of {listed(content.named)}"
        case Record():
            return f"a {shown(content)}"
    return shown(content)


# State dicts


def plain_names(tensors: Mapping[str, object], renames: Mapping[str, str]) -> dict[str, object]:
    """Without what wrappers and outer modules put in front of every name, and with the user's renames.

    renames: parts of names between dots, by what they are called in the file.
    """
    if len(tensors) > _NAMES or any(len(name) > _NAME_LENGTH for name in tensors):
        raise CheckpointError(
            f"has more than {_NAMES} tensors, or names of more than {_NAME_LENGTH} characters"
        )
    plain: dict[str, object] = {}
    for name, tensor in tensors.items():
        parts = [renames.get(part, part) for part in name.split(".") if part not in _WRAPPERS]
        short = ".".join(parts)
        if short in plain:
            raise CheckpointError(
                f"two tensors are named {printable(short)} after the names of wrappers are gone"
            )
        plain[short] = tensor
    return _without_common_start(plain) if len(plain) > 1 else plain


def _without_common_start(tensors: dict[str, object]) -> dict[str, object]:
    """Without the parts, between dots, that all names begin with."""
    first, last = min(tensors), max(tensors)  # what these two begin with, all do
    common = os.path.commonprefix([first, last])  # noqa: RUF071 - by characters, and cut at a dot
    start = common.rfind(".") + 1
    return {name[start:]: tensor for name, tensor in tensors.items()}


def _separated(candidate: Candidate, select: str | None) -> list[Candidate]:
    """A state dict that holds several networks, by their prefixes; others as they are."""
    tensors = candidate.content
    if isinstance(tensors, Record):
        return [candidate]
    prefixes = {name.removesuffix(ANCHOR).rstrip(".") for name in tensors if name.endswith(ANCHOR)}
    if len(prefixes) > _NETWORKS:
        raise CheckpointError(f"holds {len(prefixes)} networks in one state dict, more than {_NETWORKS}")
    groups = [_under(candidate, tensors, prefix) for prefix in sorted(prefixes) if prefix]
    if len(prefixes) < 2 and select not in [group.key for group in groups]:
        return [candidate]
    return groups if "" not in prefixes else [candidate, *groups]


def _under(candidate: Candidate, tensors: Mapping[str, object], prefix: str) -> Candidate:
    key = f"{candidate.key}.{prefix}" if candidate.key else prefix
    start = f"{prefix}."
    return Candidate(
        key, {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
    )

"""A stored module, of which everything must be accounted for.

A `Node` is made of the record of a module in a pickle. Making one checks every attribute, tensor, hook and
child against the entry of its class (classes.py); what has no place there is refused by name. So whoever reads
a Node has only to say what its known parts mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cosmicai.model.foreign.classes import ACTIVATIONS, MODULE_IGNORED, MUST_BE_EMPTY, Kind, kind_of
from cosmicai.model.foreign.errors import CheckpointError, listed, shown
from cosmicai.model.foreign.files import File, Floats
from inference.data.pickled import Pairs, Record, printable

_MOST_MODULES = 5000  # that are looked at; the published network has 400
_MOST_ENTRIES = 200_000  # attributes, tensors and children of them; the published network has 9,000
_PARTS = ("_parameters", "_buffers", "_modules")


def class_names(record: Record) -> list[str]:
    """Class names of a module and, if it is a wrapper, of what it wraps."""
    names = [record.name]
    while isinstance(inner := _wrapped(record), Record) and len(names) < 8:
        record = inner
        names.append(record.name)
    return names


def _wrapped(record: Record) -> object:
    """What a wrapper holds; None if it is not a wrapper."""
    kind = kind_of(record.dotted)
    if kind is None or not kind.is_wrapper:
        return None
    if record.state is None and record.arguments:  # OptimizedModule: stored as the call that makes it
        return record.arguments[0]
    modules = record.attributes.get("_modules")
    (name,) = kind.children
    return modules.named.get(name) if isinstance(modules, Pairs) else None


@dataclass
class Tree:
    """What the nodes of one stored network share.

    by_name: classes of AstroMAE's code and of timm are recognised in any module.
    renames: names of children, by what they are called in the file.
    """

    file: File
    by_name: bool = False
    renames: dict[str, str] = field(default_factory=dict)
    opened: int = 0
    entries: int = 0

    def node(self, record: object, path: str, open_ended: bool = False) -> Node:
        """The module inside its wrappers. Raises CheckpointError for any part of it that is not known."""
        while True:
            self.opened += 1
            if self.opened > _MOST_MODULES:
                raise CheckpointError(f"has more than {_MOST_MODULES} modules within each other")
            if isinstance(record, Record) and record.state is None and _wrapped(record) is not None:
                record = _wrapped(record)
                continue
            node = Node(self, record, path, open_ended)
            if not node.kind.is_wrapper:
                return node
            record = _wrapped(node.record)

    def count(self, record: Record) -> None:
        """Notes that all entries of a module are looked at. Raises CheckpointError beyond the limit."""
        parts = [record.attributes.get(name) for name in _PARTS]
        self.entries += len(record.attributes) + sum(len(p.named) for p in parts if isinstance(p, Pairs))
        if self.entries > _MOST_ENTRIES:
            raise CheckpointError(
                f"has more than {_MOST_ENTRIES:,} attributes, tensors and children of modules"
            )


class Node:
    """children: records by name, without None; strangers: children that its class does not have."""

    def __init__(self, tree: Tree, record: object, path: str, open_ended: bool = False) -> None:
        self.path = path or "the module"
        self._tree, self._prefix = tree, f"{path}." if path else ""
        if not isinstance(record, Record):
            raise CheckpointError(f"{self.path} is {shown(record)}, not a module")
        self.record = record
        tree.count(record)
        kind = kind_of(record.dotted, tree.by_name)
        if kind is None:
            raise CheckpointError(_unknown_class(self.path, record, tree.by_name))
        self.kind: Kind = kind
        self._attributes = self._checked_attributes()
        self._tensors = self._checked_tensors()
        self.children = self._checked_children()
        known = kind.children | kind.idle | kind.unused
        self.strangers = {} if kind.any_child else {n: c for n, c in self.children.items() if n not in known}
        if self.strangers and not open_ended:
            raise self.fault(f"has the unknown child {listed(self.strangers)}")
        for name in kind.idle & self.children.keys():
            self._check_idle(name)

    @property
    def role(self) -> str:
        return self.kind.role

    def fault(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path} ({shown(self.record)}) {text}")

    # Checks

    def _checked_attributes(self) -> dict[str, Any]:
        state = self.record.state
        made = (self.record.arguments, self.record.items, self.record.pairs)  # by a call, or added afterwards
        if not isinstance(state, Pairs) or state.others or any(made):
            raise self.fault("is not stored as torch stores a module")
        for name in MUST_BE_EMPTY & state.named.keys():
            if not isinstance(state.named[name], Pairs) or state.named[name]:
                raise self.fault(
                    f"has {name}: hooks can change what it computes; remove them and save it again"
                )
        own = {
            n: v for n, v in state.named.items() if n not in MODULE_IGNORED | MUST_BE_EMPTY and n not in _PARTS
        }
        kind = self.kind
        known = kind.read | kind.must.keys() | kind.ignored | kind.tensors
        for name, value in own.items():
            if name not in known and not kind.any_attribute:
                raise self.fault(f"has the unknown attribute {printable(name)} = {shown(value)}")
            if name in kind.must and not _same(value, kind.must[name]):
                raise self.fault(f"has {name} = {shown(value)}; only {kind.must[name]} is computed here")
        missing = kind.needed - own.keys()
        if missing:
            raise self.fault(f"lacks {listed(sorted(missing))}: it is of another version than any known here")
        return own

    def _checked_tensors(self) -> dict[str, object]:
        """Parameters, buffers and attributes that are tensors, by name; those that are None left out."""
        tensors: dict[str, object] = {}
        places = [self._part("_parameters"), self._part("_buffers")]
        places.append({name: self._attributes[name] for name in self.kind.tensors & self._attributes.keys()})
        for name, value in ((name, value) for place in places for name, value in place.items()):
            if name in tensors:
                raise self.fault(f"has two tensors {printable(name)}")
            if name in self.kind.unused_tensors:
                continue
            if name not in self.kind.tensors:
                raise self.fault(f"has the unknown tensor {printable(name)}{_why_unknown(name)}")
            tensors[name] = value
        return {name: value for name, value in tensors.items() if value is not None}

    def _checked_children(self) -> dict[str, object]:
        renames, children = self._tree.renames, {}
        for name, child in self._part("_modules").items():
            if renames.get(name, name) in children:
                raise self.fault(f"has two children {printable(renames.get(name, name))}")
            children[renames.get(name, name)] = child
        return {name: child for name, child in children.items() if child is not None}

    def _part(self, name: str) -> dict[str, Any]:
        part = self.record.attributes.get(name)
        if not isinstance(part, Pairs) or part.others:
            raise self.fault(f"has no {name}: it is not stored as torch stores a module")
        return part.named

    def _check_idle(self, name: str) -> None:
        child = self.child(name)
        if child.role != "idle":
            raise child.fault("computes something; only dropout or nothing is known here")

    # What is read

    def attribute(self, name: str) -> Any:
        """An attribute that its class may have; None if it has none."""
        return self._attributes.get(name)

    def has(self, name: str) -> bool:
        """Whether a tensor of that name is declared, even if it is None."""
        return name in self._attributes or name in self._part("_parameters") or name in self._part("_buffers")

    def number(self, name: str) -> float:
        value: Any = self._attributes.get(name)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.fault(f"has {name} = {shown(value)}, not a number")
        return value

    def pair(self, name: str) -> tuple[int, int]:
        """A whole number, or two for rows and columns."""
        value: Any = self._attributes.get(name)
        both: tuple[Any, Any] = value if type(value) is tuple and len(value) == 2 else (value, value)
        if not all(type(item) is int for item in both):
            raise self.fault(f"has {name} = {shown(value)}, not one or two whole numbers")
        return both

    def floats(self, name: str) -> Floats | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else self._tree.file.floats(tensor, f"{self._prefix}{name}")

    def needed_floats(self, name: str) -> Floats:
        values = self.floats(name)
        if values is None:
            raise self.fault(f"lacks the tensor {name}")
        return values

    def child(self, name: str, open_ended: bool = False) -> Node:
        if name not in self.children:
            raise self.fault(f"lacks the child {name}")
        return self._tree.node(self.children[name], f"{self._prefix}{printable(name)}", open_ended)

    def of_role(self, name: str, *roles: str) -> Node:
        """A child that must be of one of these roles."""
        child = self.child(name)
        if child.role not in roles:
            raise child.fault(f"is used where only {' or '.join(roles)} is computed here")
        return child

    def sequence(self) -> list[Node]:
        """What a container runs, in order, without what computes nothing; nested containers are flattened."""
        if self.role != "container":
            raise self.fault("is used where only a Sequential or ModuleList is known")
        return list(self._run())

    def _run(self, depth: int = 0) -> Iterator[Node]:
        if depth > 20:
            raise self.fault("is nested more than 20 deep")
        for name in self.children:
            node = self.child(name)
            if node.role == "container":
                yield from node._run(depth + 1)
            elif node.role != "idle":
                yield node


def activation(node: Node) -> str:
    """The name that our config has for an activation. Raises CheckpointError for one that we do not have."""
    match node.role:
        case "gelu":
            kinds = {None: "gelu", "none": "gelu", "tanh": "gelu_tanh"}
            approximate = node.attribute("approximate")
            if not isinstance(approximate, str | None) or approximate not in kinds:
                raise node.fault(f"has approximate = {shown(approximate)}; only 'none' and 'tanh' are known")
            return kinds[approximate]
        case "leaky_relu":
            return f"leaky_relu({float(node.number('negative_slope'))!r})"
        case "elu":
            return f"elu({float(node.number('alpha'))!r})"
        case "idle":
            return "identity"
        case role if role in ACTIVATIONS:
            return role
    raise node.fault(f"is used where an activation is expected: {', '.join(ACTIVATIONS)}")


def _same(value: object, expected: object) -> bool:
    return type(value) is type(expected) and value == expected


def _unknown_class(path: str, record: Record, by_name: bool) -> str:
    moved = kind_of(record.name, by_name=True) is not None and not by_name
    if moved:
        return (
            f"{path} is a {shown(record)}; a class of that name is known, but from another module: give "
            "--classes-by-name if it is the same class"
        )
    known = "an activation that we have" if ".activation." in record.dotted else "a class known here"
    return f"{path} is a {shown(record)}, which is not {known}"


def _why_unknown(name: str) -> str:
    if name.endswith(("_orig", "_g", "_v")):
        return ": remove weight or spectral normalisation (torch.nn.utils) and save it again"
    return ""

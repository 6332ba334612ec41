"""The words of pickles: values, names and opcodes, by which pickles are written by hand and changed."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from tests.fuzz.opcodes import CODES, Op, op, written

NUMBERS = (
    *range(-2, 10), 16, 31, 32, 63, 64, 127, 128, 255, 256, 1000, 65535, 65536,
    *(2**n + d for n in (31, 32, 53, 62, 63, 64) for d in (-1, 0, 1)),
    -(2**31), -(2**63), -(2**64), 10**30, 2**2000,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.5, 1e-6, 1e-5, 1e300, float("inf"), float("nan"), 5e-324)
TEXTS = (
    "", "0", "1", "2", "3", "storage", "module", "cpu", "tensors", "neg", "conj", "data", "real", "grad",
    "requires_grad", "_backward_hooks", "_parameters", "_buffers", "_modules", "_forward_hooks", "__class__",
    "__dict__", "__setstate__", "weight", "bias", "named", "others", "state", "dotted", "model", "state_dict",
    "same", "valid", "é", "\ud800", "x" * 300,
)  # fmt: skip
STORAGES = (
    "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat",
    "QInt8",
)  # fmt: skip
GLOBALS = (
    *(f"torch {kind}Storage" for kind in STORAGES),
    "torch.storage UntypedStorage", "torch.storage TypedStorage",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch FloatTensor", "torch Size", "torch float32",
    "torch.nn.parameter Parameter", "torch.utils.data.dataset TensorDataset", "torch.nn.modules.linear Linear",
    "torch.nn.modules.container Sequential", "torch.nn.parallel.data_parallel DataParallel",
    "torch._dynamo.eval_frame OptimizedModule", "collections OrderedDict", "collections defaultdict",
    "collections Counter", "builtins set", "builtins list", "builtins dict", "builtins complex",
    "builtins getattr", "builtins bytearray", "_codecs encode", "copy_reg _reconstructor", "os system",
)  # fmt: skip
PLAIN = (
    "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "MARK", "POP",
    "POP_MARK", "DUP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "FROZENSET", "APPEND", "APPENDS",
    "SETITEM", "SETITEMS", "ADDITEMS", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID", "STACK_GLOBAL",
    "MEMOIZE", "STOP",
)  # fmt: skip
ALIKE = (  # opcodes that take and leave as many objects
    ("REDUCE", "NEWOBJ", "BUILD", "APPEND", "TUPLE2", "STACK_GLOBAL"),
    ("TUPLE", "LIST", "DICT", "FROZENSET"),
    ("APPENDS", "SETITEMS", "ADDITEMS"),
    ("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    ("SETITEM", "TUPLE3", "NEWOBJ_EX"),
    ("BINPERSID", "TUPLE1"),
)

PUTS, GETS = ({CODES[name], CODES[f"LONG_{name}"]} for name in ("BINPUT", "BINGET"))
STOP = CODES["STOP"]

Ops = list[Op]


def number(value: int) -> Op:
    """The shortest opcode for a whole number."""
    if 0 <= value < 256:
        return op("BININT1", value.to_bytes())
    if 0 <= value < 65536:
        return op("BININT2", value.to_bytes(2, "little"))
    if -(1 << 31) <= value < 1 << 31:
        return op("BININT", value.to_bytes(4, "little", signed=True))
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return op("LONG1" if len(raw) < 256 else "LONG4", raw)


def text(value: str) -> Op:
    return op("BINUNICODE", value.encode("utf-8", "surrogatepass"))


def named(dotted: str) -> Op:
    """dotted: module and name, with a space between."""
    module, _, name = dotted.rpartition(" ")
    return op("GLOBAL", f"{module}\n{name}\n".encode())


@lru_cache(4096)
def put(index: int) -> Op:
    return op("BINPUT", index.to_bytes()) if index < 256 else op("LONG_BINPUT", index.to_bytes(4, "little"))


@lru_cache(4096)
def get(index: int) -> Op:
    return op("BINGET", index.to_bytes()) if index < 256 else op("LONG_BINGET", index.to_bytes(4, "little"))


def tuple_of(*parts: Ops) -> Ops:
    return [op("MARK"), *(one for part in parts for one in part), op("TUPLE")]


def called(function: str, *arguments: Ops) -> Ops:
    return [named(function), *tuple_of(*arguments), op("REDUCE")]


def storage(kind: str, key: str, count: int) -> Ops:
    parts = ([text("storage")], [named(kind)], [text(key)], [text("cpu")], [number(count)])
    return [*tuple_of(*parts), op("BINPERSID")]


def pickle_of(*parts: Ops) -> bytes:
    """A pickle of protocol 2 that is written by hand."""
    return written([op("PROTO", b"\2"), *(one for part in parts for one in part), op("STOP")])


def index_of(ops: Ops, dice: Random) -> int:
    """Of something that the pickle remembers, or the next one."""
    return dice.randrange(remembered(ops) + 1)


def remembered(ops: Ops) -> int:
    return max((int.from_bytes(one.argument, "little") + 1 for one in ops if one.code in PUTS), default=0)

"""ONNX files that strangers made: none runs, reads or needs more than it may, and each refusal says why."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cosmicai.model.import_onnx import import_onnx
from cosmicai.model.onnxfile import asking, child
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.model.onnxfile.reading import OnnxFileError
from cosmicai.model.onnxfile.writing import write
from cosmicai.runs.infer import infer
from inference.contract.flags import Flag
from tests.networks import partition, save

node = helper.make_node
ASKED = Asked({"images": "x"}, {"out": "y"}, {"out": "values"})


def _number(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _inner(name: str) -> onnx.GraphProto:
    """A graph for a node to hold."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])
    return helper.make_graph([node("Relu", ["x"], [name])], "inner", [], [value])


def _changed(path: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    """A good file, with a change."""
    model = onnx.load_model(save([node("Relu", ["x"], ["y"])], path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def _external(path: Path, location: str, **entries: str) -> Path:
    """A file whose weight (3,) is in another one."""

    def change(model: onnx.ModelProto) -> None:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            weight.external_data.add(key=key, value=value)
        model.graph.initializer.append(weight)
        model.graph.node[0].CopyFrom(node("Add", ["x", "w"], ["y"]))

    return _changed(path, change)


def _loop(path: Path) -> Path:
    count, condition = _number("n", 2**62), numpy_helper.from_array(np.array(True), "c")
    return save([node("Loop", ["n", "c", "x"], ["y"], body=_inner("z"))], path, [count, condition])


def _if(path: Path) -> Path:
    condition = numpy_helper.from_array(np.array(True), "c")
    return save([node("If", ["c"], ["y"], then_branch=_inner("a"), else_branch=_inner("b"))], path, [condition])


def _heavy(path: Path) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40], raw_data=b"1234")
    return save([node("Add", ["x", "w"], ["y"])], path, [weight])


def _function(path: Path) -> Path:
    opsets = [helper.make_opsetid("", 20)]
    own = helper.make_function("own", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="own")], opsets)
    return _changed(path, lambda model: model.functions.append(own))


def _named(text: str) -> Callable[[Path], Path]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = text

    return lambda path: _changed(path, change)


def _typed(kind: int) -> Callable[[Path], Path]:
    def change(model: onnx.ModelProto) -> None:
        for one in (*model.graph.input, *model.graph.output):
            one.type.tensor_type.elem_type = kind

    return lambda path: _changed(path, change)


def _sized(*sizes: int | str) -> Callable[[Path], Path]:
    def change(model: onnx.ModelProto) -> None:
        shape = model.graph.input[0].type.tensor_type.shape
        shape.Clear()
        for one in sizes:
            shape.dim.add(**({"dim_param": one} if isinstance(one, str) else {"dim_value": one}))

    return lambda path: _changed(path, change)


def _of(*nodes: onnx.NodeProto, weights: Any = (), **more: Any) -> Callable[[Path], Path]:
    return lambda path: save(nodes, path, weights, **more)


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a loop": (_loop, "has the operator Loop, which is not supported; neither are control flow"),
    "a branch": (_if, "has the operator If, which is not supported"),
    "a graph in a node that has none": (
        _of(node("Relu", ["x"], ["y"], body=_inner("z"))), "an operator Relu contains a graph",
    ),
    "an operator of another domain": (
        _of(node("Own", ["x"], ["y"], domain="evil\x1b[2J"), domains={"": 20, "evil\x1b[2J": 1}),
        r"has the operator Own of the domain evil\x1b[2J; only those of ONNX itself",
    ),
    "our own operators": (
        _of(node("Gelu", ["x"], ["y"], domain="cosmicai"), domains={"": 20, "cosmicai": 1}),
        "of the domain cosmicai",
    ),
    "random numbers": (_of(node("RandomNormalLike", ["x"], ["y"])), "has the operator RandomNormalLike"),
    "dropout in training": (
        _of(
            node("Dropout", ["x", "r", "t"], ["y"]),
            weights=[
                numpy_helper.from_array(np.float32(0.5), "r"),
                numpy_helper.from_array(np.array(True), "t"),
            ],
        ),
        "depends on the others in its batch, or on chance",
    ),
    "a norm over the batch": (
        _of(node("ReduceMean", ["x", "a"], ["m"]), node("Sub", ["x", "m"], ["y"]), weights=[_number("a", 0)]),
        "its output y of an object depends on the others in its batch",
    ),
    "a function that calls itself": (_function, "has functions of its own (F)"),
    "a name that a terminal obeys": (_named("x\x1b]0;owned\x07"),
        r"is called 'x\x1b]0;owned\x07', which is no"),
    "no name": (_named(""), "which is not printable"),
    "double precision": (_typed(TensorProto.DOUBLE), "its input x is DOUBLE, not FLOAT: export the network"),
    "texts": (_typed(TensorProto.STRING), "its input x is STRING, not FLOAT"),
    "a type that there is not": (_typed(999), "is of the unknown type 999, not FLOAT"),
    "a batch of one": (_sized(1, 3), "has a fixed number of objects; export it with a free first dimension"),
    "no dimensions": (_sized(), "has no number of objects"),
    "free pixels": (_sized("N", 3, "H"), "has no fixed size in every dimension but the first"),
    "negative pixels": (_sized("N", -3), "has no fixed size in every dimension but the first"),
    "an object of a terabyte": (_sized("N", 2**20, 2**20), "has 1,099,511,627,776 values per object"),
    "a weight of a terabyte": (_heavy, "the weight w has fewer or more bytes than its shape needs"),
    "a constant of a terabyte": (
        _of(node("ConstantOfShape", ["s"], ["c"]), node("ReduceSum", ["c"], ["r"], keepdims=0),
            node("Add", ["x", "r"], ["y"]), weights=[_number("s", 2**40)]),
        "onnxruntime cannot run it",
    ),
    "an output of a gigabyte": (
        _of(node("Expand", ["x", "s"], ["y"]), weights=[_number("s", 1, 3 * 2**20)], inputs={"x": 1}),
        "its output y has 3,145,728 values per object; 4,096 at most",
    ),
    "an output without objects": (
        _of(node("ReduceSum", ["x"], ["y"], keepdims=0)), "has the shape () for 64 objects, not a row for each",
    ),
    "an output of whole numbers": (
        lambda path: _changed(path, lambda model: (
            model.graph.node[0].CopyFrom(node("ArgMax", ["x"], ["y"], axis=1)),
            setattr(model.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT64),
        )),
        "its output y is int64, not float32",
    ),
    "nodes that feed each other": (
        _of(node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Add", ["x", "b"], ["y"])),
        "onnx's checker refuses it: Nodes in a graph must be topologically sorted",
    ),
    "an operator version of the future": (_of(node("Relu", ["x"], ["y"]), domains={"": 9999}), "till opset"),
    "weights in /etc": (lambda path: _external(path, "/etc/passwd"), "'/etc/passwd' cannot be a path below"),
    "weights above": (lambda path: _external(path, "../secret"), "'../secret' cannot be a path below a folder"),
    "weights nowhere": (lambda path: _external(path, "w.bin"),
        "its weights are in w.bin, which is not in its folder"),
    "weights of no name": (lambda path: _external(path, ""), "cannot be a path below a folder"),
    "weights at a text": (
        lambda path: _external(path, path.name, offset="1e3"),
        "the offset of external data is '1e3', not a number",
    ),
    "weights beyond the end of the file": (
        lambda path: _external(path, path.name, offset="999999999999"), "but the range that it names in",
    ),
    "weights of another length": (
        lambda path: _external(path, path.name, length="7"), "the weight w has 12 bytes, but the range",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    """As the child process does it."""
    make, message = FILES[name]
    path, folder = make(tmp_path / "net.onnx"), tmp_path / "out"
    folder.mkdir()
    began = time.monotonic()
    with pytest.raises(OnnxFileError) as error:
        write(path, folder, ASKED)
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert time.monotonic() - began < 20
    assert not [*folder.iterdir()]


def test_a_link_to_weights_outside_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 12)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "w.bin").symlink_to(secret)
    with pytest.raises(OnnxFileError, match="which is a link to outside of the folder"):
        write(_external(folder / "net.onnx", "w.bin"), tmp_path, ASKED)


def test_weights_beside_the_file_are_taken(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    path = _external(tmp_path / "net.onnx", "w.bin")
    import_onnx(path, tmp_path / "model", ASKED)
    (tmp_path / "w.bin").unlink()
    rows = torch.arange(6.0).reshape(2, 3) + 1
    results = infer(partition(tmp_path / "1.pt", rows), tmp_path / "out", model=tmp_path / "model")
    assert results.to_astropy()["out"].tolist() == (rows + torch.tensor([1.0, 2, 3])).tolist()


def test_what_an_unused_output_needs_is_not_read(tmp_path: Path) -> None:
    """Neither its operators nor its external data: the written graph has no part of them."""
    model = onnx.load_model(save([node("Relu", ["x"], ["y"])], tmp_path / "a.onnx"))
    file = _external(tmp_path / "b.onnx", "/etc/passwd")
    other = onnx.load_model(file, load_external_data=False).graph
    loop = node("Loop", ["", "", "w"], ["l"], body=_inner("z"))
    model.graph.node.append(loop)
    model.graph.initializer.append(other.initializer[0])
    model.graph.output.append(helper.make_tensor_value_info("l", TensorProto.FLOAT, ["N", 3]))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    card = import_onnx(path, tmp_path / "model", ASKED)
    assert (card["operators"], card["not used"]) == ({"Relu": 1}, ["l"])
    assert b"passwd" not in (tmp_path / "model" / "model.onnx").read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x00", b"PK\x03\x04", b"\x08\xff" * 40, os.urandom(4096), b"{}"])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match="is not an ONNX file"):
        write(path, tmp_path, ASKED)


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    whole = save([node("MatMul", ["x", "w"], ["y"])], tmp_path / "whole.onnx", [weight]).read_bytes()
    path, folder = tmp_path / "net.onnx", tmp_path / "out"
    folder.mkdir()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(OnnxFileError):
            write(path, folder, ASKED)


def test_a_child_that_crashes_or_lasts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save([node("Relu", ["x"], ["y"])], tmp_path / "net.onnx")
    body = "import os, resource, signal, sys; "
    for code, message in (
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        ("sys.exit('a\\x1b[2Jb')", r"ended with status 1: a\\x1b\[2Jb"),
        ("resource.setrlimit(resource.RLIMIT_CPU, (1, 1)); [0 for _ in iter(int, 1)]", "took more than 120 s"),
    ):
        real = subprocess.run

        def run(command: Any, code: str = code, real: Any = real, **options: Any) -> Any:
            return real([sys.executable, "-c", body + code], **options)

        with monkeypatch.context() as patched:
            patched.setattr(asking.subprocess, "run", run)
            with pytest.raises(OnnxFileError, match=message):
                import_onnx(path, tmp_path / "model", ASKED)
        assert [one.name for one in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no limit of a process's memory")
def test_memory_has_a_limit_and_credentials_stay_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real child: a constant of a terabyte ends only the child, which sees no AWS_ variables."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen: dict[str, Any] = {}
    real = subprocess.run

    def run(command: Any, **options: Any) -> Any:
        seen.update(options["env"])
        return real(command, **options)

    monkeypatch.setattr(asking.subprocess, "run", run)
    with pytest.raises(OnnxFileError, match=r"net\.onnx: onnxruntime cannot run it|of memory"):
        import_onnx(FILES["a constant of a terabyte"][0](tmp_path / "net.onnx"), tmp_path / "model", ASKED)
    assert "PATH" in seen
    assert not [name for name in seen if name.startswith("AWS_")]
    limits = subprocess.run(
        [sys.executable, "-c", _LIMITS.format(child=child.__name__)],
        env=seen, input=b'{"file": "/nowhere", "folder": "/", "asked": {}}', capture_output=True,
    )  # fmt: skip
    assert json.loads(limits.stderr.split()[-1]) == child.MOST_MEMORY


_LIMITS = """
import resource, runpy
try:
    runpy.run_module("{child}", run_name="__main__")
except FileNotFoundError:
    pass
import os
os.write(1, str(resource.getrlimit(resource.RLIMIT_AS)[0]).encode())
"""


def test_an_object_whose_output_is_not_finite_costs_itself_alone(tmp_path: Path) -> None:
    path = save([node("Log", ["x"], ["l"]), node("Add", ["l", "x"], ["y"])], tmp_path / "net.onnx")
    card = import_onnx(path, tmp_path / "model", ASKED)
    assert card["finite for random objects"] is False
    rows = torch.ones(40, 3)
    rows[7, 1] = -1
    table = infer(partition(tmp_path / "1.pt", rows), tmp_path / "out", model=tmp_path / "model").to_astropy()
    assert np.flatnonzero(np.isnan(np.asarray(table["out"])).any(1)).tolist() == [7]
    assert table["flags"][7] == Flag.NO_REDSHIFT


def test_probabilities_that_are_none_cost_their_object(tmp_path: Path) -> None:
    """A network that gives probabilities for random objects, and others for one that its maker chose."""
    big = numpy_helper.from_array(np.float32(1e6), "big")
    zero, two = (numpy_helper.from_array(np.float32(value), name) for value, name in ((0, "zero"), (2, "two")))
    nodes = [
        node("Softmax", ["x"], ["p"], axis=1), node("Greater", ["x", "big"], ["far"]),
        node("Where", ["far", "two", "zero"], ["more"]), node("Add", ["p", "more"], ["y"]),
    ]  # fmt: skip
    path = save(nodes, tmp_path / "net.onnx", [big, zero, two])
    asked = Asked({"images": "x"}, {"kind": "y"}, classes={"kind": ["a", "b", "c"]})
    import_onnx(path, tmp_path / "model", asked)
    rows = torch.randn(20, 3)
    rows[4, 0] = 2e6
    data = partition(tmp_path / "1.pt", rows, torch.zeros(20))
    results = infer(data, tmp_path / "out", model=tmp_path / "model")
    assert [row for row, name in enumerate(results.to_astropy()["kind"]) if name == ""] == [4]
    accuracy: Any = results.summary.accuracy
    assert accuracy["count"] == 19


def test_a_changed_graph_is_not_run(tmp_path: Path) -> None:
    """graphs.json has the sum of the graph that was checked."""
    from inference.engine.choice import choose, read_graphs, verify
    from inference.engine.interface import EngineError

    import_onnx(save([node("Relu", ["x"], ["y"])], tmp_path / "net.onnx"), tmp_path / "model", ASKED)
    _loop(tmp_path / "model" / "model.onnx")
    choice = choose(read_graphs(tmp_path / "model"), "auto", "auto")
    with pytest.raises(
        EngineError, match=re.escape("model.onnx is not the file that graphs.json was written for")
    ):
        verify(tmp_path / "model", choice)

"""Stored layers as those of a Network: what each of their attributes does to the result."""

from __future__ import annotations

from cosmicai.model.foreign.errors import CheckpointError, shown
from cosmicai.model.foreign.network import BatchNorm, Chain, Convolution, LayerNorm, Linear, Pool
from cosmicai.model.foreign.nodes import Node, activation


def linear(node: Node) -> Linear:
    weight = node.needed_floats("weight")
    if weight.ndim != 2:
        raise node.fault(f"has a weight of shape {weight.shape}")
    return Linear(node.path, weight, node.floats("bias"))


def convolution(node: Node, patches: bool = False) -> Convolution:
    """One that keeps its input's size, or one that cuts it into patches."""
    weight, groups = node.needed_floats("weight"), node.attribute("groups")
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise node.fault(f"has a weight of shape {weight.shape}; only square kernels are computed here")
    kernel = weight.shape[2]
    stride, padding = (kernel, 0) if patches else (1, kernel // 2)
    if node.pair("stride") != (stride, stride):
        raise node.fault(f"has stride = {shown(node.attribute('stride'))}; only {stride} is computed here")
    if _padding(node, kernel, stride) != (padding, padding):
        raise node.fault(f"has padding = {shown(node.attribute('padding'))}; only {padding} is computed here")
    if node.pair("dilation") != (1, 1):
        raise node.fault(f"has dilation = {shown(node.attribute('dilation'))}; only 1 is computed here")
    if type(groups) is not int or groups < 1:
        raise node.fault(f"has groups = {shown(groups)}, not a whole number")
    return Convolution(node.path, weight, node.floats("bias"), groups)


def _padding(node: Node, kernel: int, stride: int) -> tuple[int, int]:
    """torch also takes 'valid' (none) and, without strides, 'same' (what keeps the size)."""
    value = node.attribute("padding")
    if type(value) is str and value == "valid":
        return 0, 0
    if type(value) is str and value == "same" and stride == 1 and kernel % 2:
        return kernel // 2, kernel // 2
    return node.pair("padding")


def layer_norm(node: Node, width: int) -> LayerNorm:
    shape = node.attribute("normalized_shape")
    if shape != (width,):
        raise node.fault(f"has normalized_shape = {shown(shape)}; only ({width},) is computed here")
    return LayerNorm(node.path, node.floats("weight"), node.floats("bias"), _eps(node))


def batch_norm(node: Node) -> BatchNorm:
    mean, variance = node.floats("running_mean"), node.floats("running_var")
    if mean is None or variance is None:
        raise node.fault("has no running statistics: its result would depend on the other galaxies of a batch")
    if mean.ndim != 1:
        raise node.fault(f"has running_mean of shape {mean.shape}")
    return BatchNorm(node.path, node.floats("weight"), node.floats("bias"), mean, variance, _eps(node))


def _eps(node: Node) -> float:
    value = float(node.number("eps"))
    if value < 0:
        raise node.fault(f"has eps = {value}, which is negative")
    return value


def chain(node: Node) -> Chain:
    """A Sequential of Linear layers with the same activation between any two of them."""
    return chain_of(node.path, node.sequence())


def chain_of(name: str, nodes: list[Node]) -> Chain:
    layers: list[Linear] = []
    between: list[str] = []
    waiting = False  # whether an activation has come after the last Linear layer
    for node in nodes:
        if node.role == "linear":
            if layers and not waiting:
                between.append("identity")
            layers.append(linear(node))
            waiting = False
        elif not layers or waiting or node is nodes[-1]:
            raise node.fault("is used where a Linear layer is expected")
        else:
            between.append(activation(node))
            waiting = True
    if not layers:
        raise CheckpointError(f"{name} holds no Linear layer")
    if len(set(between)) > 1:
        raise CheckpointError(
            f"{name} has different activations ({', '.join(between)}): only one for all is computed here"
        )
    return Chain(name, tuple(layers), between[0] if between else "relu")


_POOLS = {"average pool": "average", "max pool": "max"}


def pool(node: Node, stride: int | None = None) -> Pool:
    """stride None: as large as the pool, without padding (it halves); 1: with padding that keeps the size."""
    if node.role not in _POOLS:
        raise node.fault("is used where average or max pooling is expected")
    size = node.pair("kernel_size")
    steps = size if node.attribute("stride") is None else node.pair("stride")
    expected = (2, 2) if stride is None else (stride, stride)
    padding = 0 if stride is None else size[0] // 2
    whole = size[0] == size[1] and (size[0] == 2 if stride is None else size[0] % 2 == 1)
    if not whole or steps != expected or node.pair("padding") != (padding, padding):
        values = ", ".join(f"{n} = {shown(node.attribute(n))}" for n in ("kernel_size", "stride", "padding"))
        what = "halves its input" if stride is None else "keeps the size of its input"
        raise node.fault(f"has {values}; only a pool that {what} is computed here")
    if node.role == "max pool" and node.pair("dilation") != (1, 1):
        raise node.fault(f"has dilation = {shown(node.attribute('dilation'))}; only 1 is computed here")
    return Pool(node.path, _POOLS[node.role], size[0])

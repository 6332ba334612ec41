"""Which back end an operation uses: FMI's model of latency and price (Copik et al. 2023, section 4).

The formulas are exactly those of FMI's public implementation, so that ranks of either library choose the same
back end from the same configuration. That includes its units: an overhead in milliseconds is added to seconds
of transfer, and the sum is billed as if it were seconds.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .values import hints

_MB, _GB = 1e6, 1e9

# From FMI's own example configuration; used, with a warning, for figures that a configuration lacks.
EXAMPLES: dict[str, dict[str, float | bool]] = {
    "FaaS": {"gib_second_price": 0.0000166667},
    "S3": {"bandwidth": 50.0, "overhead": 40.4, "transfer_price": 0.0, "download_price": 0.00000043,
           "upload_price": 0.0000054},
    "Redis": {"bandwidth_single": 100.0, "bandwidth_multiple": 400.0, "overhead": 5.2, "transfer_price": 0.0,
              "instance_price": 0.0038, "requests_per_hour": 1000.0, "include_infrastructure_costs": True},
    "Direct": {"bandwidth": 400.0, "overhead": 0.34, "transfer_price": 0.0, "vm_price": 0.0134,
               "requests_per_hour": 1000.0, "include_infrastructure_costs": True},
}  # fmt: skip
_EXAMPLE_TIMEOUTS = {"timeout": 100.0, "max_timeout": 1000.0}  # ms, of S3
_DIVISORS = ("bandwidth", "bandwidth_single", "bandwidth_multiple", "requests_per_hour", "timeout")


@dataclass(frozen=True)
class Operation:
    """An operation, as far as the model needs it; size: the number of bytes of one rank."""

    name: str
    size: int
    ranks: int
    ordered: bool = False


class BackEnd(ABC):
    """How long an operation takes over a back end, and what the back end costs for it in USD."""

    @abstractmethod
    def latency(self, operation: Operation) -> float: ...

    @abstractmethod
    def price(self, operation: Operation) -> float: ...


@dataclass(frozen=True)
class PeerToPeer(BackEnd):
    """Direct: each message goes from one rank to another and has its share of the rendezvous host's hour."""

    figures: Mapping[str, float]

    def latency(self, operation: Operation) -> float:
        size, (down, up) = operation.size, _rounds(operation.ranks)
        blocks = [*range(1, down + 1), operation.ranks - (1 << down)]
        tree = up * self._message_latency(size)
        gathered = sum(self._message_latency(block * size) for block in blocks)
        match operation.name:
            case "send":
                return self._message_latency(size)
            case "scan":
                return 2 * down * self._message_latency(size)
            case "allreduce" | "barrier" if not operation.ordered:
                return (2 * down + 2) * self._message_latency(size)
        return _tree_or_gathered(operation, tree, gathered)

    def price(self, operation: Operation) -> float:
        size, (down, up) = operation.size, _rounds(operation.ranks)
        tree = (operation.ranks - 1) * self._message_price(size)
        gathered = sum(2.0 ** (down - step) * self._message_price(step * size) for step in range(1, up + 1))
        match operation.name:
            case "send":
                return self._message_price(size)
            case "scan":
                return 2 * operation.ranks * self._message_price(size)
            case "allreduce" | "barrier" if not operation.ordered:
                return 2 * tree
        return _tree_or_gathered(operation, tree, gathered)

    def _message_latency(self, size: int) -> float:
        return self.figures["overhead"] + size / _MB / self.figures["bandwidth"]

    def _message_price(self, size: int) -> float:
        price = 2 * size / _GB * self.figures["transfer_price"]
        if self.figures["include_infrastructure_costs"]:
            price += self.figures["vm_price"] / self.figures["requests_per_hour"]
        return price


def _rounds(ranks: int) -> tuple[int, int]:
    """log2 of the number of ranks, rounded down and up."""
    return ranks.bit_length() - 1, (ranks - 1).bit_length()


def _tree_or_gathered(operation: Operation, tree: float, gathered: float) -> float:
    match operation.name:
        case "gather" | "scatter":
            return gathered
        case "reduce":
            return gathered if operation.ordered else tree
        case "allreduce":  # in the order of ranks: to rank 0, and back
            return gathered + tree
    return tree


class Store(BackEnd):
    """Producers write objects, consumers read them."""

    @abstractmethod
    def transfer_latency(self, producers: int, consumers: int, size: int) -> float: ...

    @abstractmethod
    def transfer_price(self, producers: int, consumers: int, size: int) -> float: ...

    def latency(self, operation: Operation) -> float:
        return sum(self.transfer_latency(*transfer) for transfer in _transfers(operation))

    def price(self, operation: Operation) -> float:
        if operation.name == "scan":  # FMI's implementation uses latencies as prices here
            others = range(1, operation.ranks)
            return sum(self.transfer_latency(1, operation.ranks - rank, operation.size) for rank in others)
        return sum(self.transfer_price(*transfer) for transfer in _transfers(operation))


def _transfers(operation: Operation) -> list[tuple[int, int, int]]:
    """(producers, consumers, bytes) of the transfers that follow one another; none for a single rank."""
    size, ranks, others = operation.size, operation.ranks, operation.ranks - 1
    if not others:
        return []
    match operation.name:
        case "send":
            return [(1, 1, size)]
        case "bcast" | "scatter":
            return [(1, others, size)]
        case "barrier":
            return [(ranks, 1, 1), (1, ranks, 1)]
        case "allreduce":
            return [(others, 1, size), (1, others, size)]
    return [(others, 1, size)]


@dataclass(frozen=True)
class ObjectStore(Store):
    """S3: each request has its price, and a consumer asks every `timeout` ms until the object is there."""

    figures: Mapping[str, float]

    def transfer_latency(self, producers: int, consumers: int, size: int) -> float:
        overhead = self.figures["overhead"] + self.figures["timeout"] / 2
        return math.log2(producers + consumers) * overhead + size / _MB / self.figures["bandwidth"]

    def transfer_price(self, producers: int, consumers: int, size: int) -> float:
        requests = self.figures["max_timeout"] // self.figures["timeout"] // 2
        bytes_price = size / _GB * self.figures["transfer_price"]
        uploads = producers * (self.figures["upload_price"] + bytes_price)
        return uploads + producers * consumers * (requests * self.figures["download_price"] + bytes_price)


@dataclass(frozen=True)
class Server(Store):
    """Redis: an operation has its share of an instance's hour, and a bandwidth that all transfers share."""

    figures: Mapping[str, float]

    def transfer_latency(self, producers: int, consumers: int, size: int) -> float:
        messages = producers * consumers
        bandwidth = min(messages * self.figures["bandwidth_single"], self.figures["bandwidth_multiple"])
        overhead = math.log2(producers + consumers) * self.figures["overhead"]
        return overhead + messages * size / _MB / bandwidth

    def transfer_price(self, producers: int, consumers: int, size: int) -> float:
        price = (1 + consumers) * producers * size / _GB * self.figures["transfer_price"]
        if self.figures["include_infrastructure_costs"]:
            price += self.figures["instance_price"] / self.figures["requests_per_hour"]
        return price


_KINDS: dict[str, Callable[[Mapping[str, float]], BackEnd]] = {
    "Direct": PeerToPeer,
    "Redis": Server,
    "S3": ObjectStore,
}


class Model:
    """Chooses among the enabled back ends.

    back_ends: their settings by name; figures: the configuration's `model`; both in the form of FMI's
    configuration. memory: MB of each function. Raises ValueError for a figure that is not a number.
    """

    def __init__(
        self, back_ends: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any], memory: int
    ) -> None:
        self._names = sorted(back_ends)  # of equally good ones the first is chosen, as in FMI
        if len(self._names) == 1:
            return
        price = _figures("FaaS", figures)["gib_second_price"]
        self._second_price = price * memory / 1024
        self._back_ends: dict[str, BackEnd] = {}
        for name, settings in back_ends.items():
            numbers = _figures(name, figures)
            if name == "S3":
                numbers |= _numbers("backends.S3", settings, _EXAMPLE_TIMEOUTS)
            self._back_ends[name] = _KINDS[name](numbers)

    def choose(self, operation: Operation, hint: hints) -> str:
        """The name of the back end with the lowest latency or, for hints.cheap, the lowest price."""
        if len(self._names) == 1:
            return self._names[0]

        def worth(name: str) -> float:
            back_end = self._back_ends[name]
            latency = back_end.latency(operation)
            if hint is hints.fast:
                return latency
            return back_end.price(operation) + latency * self._second_price

        return min(self._names, key=worth)


def _figures(name: str, figures: Mapping[str, Any]) -> dict[str, float]:
    return _numbers(f"model.{name}", figures.get(name, {}), EXAMPLES[name])


def _numbers(where: str, values: Mapping[str, Any], examples: Mapping[str, float | bool]) -> dict[str, float]:
    """The figures that `examples` names. Those that are missing are taken from it, with a warning."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: {values!r} is not a JSON object; give one with {', '.join(examples)}")
    missing = [f"{key} = {str(example).lower()}" for key, example in examples.items() if key not in values]
    if missing:
        warnings.warn(
            f"{where}: {', '.join(missing)} taken from FMI's example configuration; they decide which back end "
            "operations use, so set them in yours",
            stacklevel=2,
        )
    return {key: _number(f"{where}.{key}", values.get(key, example)) for key, example in examples.items()}


def _number(where: str, value: Any) -> float:
    """A number, or true or false as 1 or 0; each may be a string."""
    texts = {"true": 1.0, "false": 0.0}
    try:
        number = texts.get(str(value).lower())
        number = float(value) if number is None else number
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {value!r} is not a number, nor a string with one") from None
    divisor = where.rpartition(".")[2] in _DIVISORS
    if not math.isfinite(number) or number < 0 or (divisor and not number):
        raise ValueError(f"{where}: {value!r} must be finite and {'above 0' if divisor else 'at least 0'}")
    return number

"""Which back end an operation takes: FMI's model of its latency and price (Copik et al. 2023, section 4).

A message of s bytes takes overhead + s / bandwidth; an operation as long as its longest chain of messages. It
costs what the store takes for its messages and bytes, a share of the infrastructure's hours, and the time that
all ranks' functions are billed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GIB_IN_MB = 1024


@dataclass(frozen=True)
class Shape:
    """An operation as messages: `chain` holds the bytes of those that wait for each other."""

    chain: tuple[int, ...]
    messages: int
    total_bytes: int


def shape(operation: str, size: int, ranks: int, ordered: bool = False) -> Shape:
    """Messages of an operation, of `size` bytes a rank, by this library's algorithms."""
    if operation in ("send", "recv"):
        return Shape((size,), 1, size)
    rounds, power = (ranks - 1).bit_length(), 1 << (ranks.bit_length() - 1)
    steps_of = [(1 << i, range(1 << i, ranks, 2 << i)) for i in range(rounds)]  # distance, who sends
    total = sum(min(step, ranks - place) for step, places in steps_of for place in places)
    blocks = tuple(size * min(step, ranks - step) for step, _ in steps_of)
    gathered = Shape(blocks, ranks - 1, size * total)
    tree = Shape((size,) * rounds, ranks - 1, (ranks - 1) * size)
    if operation in ("gather", "scatter"):
        return gathered
    if operation == "bcast":
        return tree
    if operation == "reduce":
        return gathered if ordered else tree
    if operation in ("allreduce", "barrier"):
        if ordered:
            return _both(gathered, tree)
        steps, beyond = power.bit_length() - 1, ranks - power
        messages = power * steps + 2 * beyond
        return Shape((size,) * (2 * steps + (2 if beyond else 0)), messages, messages * size)
    if operation == "scan":
        length = ranks - 1 if ordered else 2 * rounds
        messages = ranks - 1 if ordered else 2 * (ranks - 1)
        return Shape((size,) * length, messages, messages * size)
    raise ValueError(f"{operation} is no operation of FMI")


def _both(first: Shape, second: Shape) -> Shape:
    return Shape(
        first.chain + second.chain,
        first.messages + second.messages,
        first.total_bytes + second.total_bytes,
    )


@dataclass(frozen=True)
class BackEnd:
    """One back end's figures in FMI's units: ms, MB/s, USD a message, a GB and an hour."""

    name: str
    overhead: float
    bandwidth_single: float
    bandwidth_multiple: float
    message_price: float
    transfer_price: float
    hourly_price: float
    requests_per_hour: float

    @classmethod
    def parse(cls, name: str, settings: Mapping[str, Any]) -> BackEnd:
        """settings: the back end's part of FMI's configuration, whose numbers are strings."""

        def number(key: str, default: float = 0.0) -> float:
            try:
                return float(settings.get(key, default))
            except (TypeError, ValueError):
                raise ValueError(
                    f"backends.{name}.{key}: {settings[key]!r} is not a number, as itself or as a string"
                ) from None

        single = number("bandwidth_single", number("bandwidth", _BANDWIDTH[name]))
        infrastructure = str(settings.get("include_infrastructure_costs", "true")).lower() == "true"
        return cls(
            name=name,
            overhead=number("overhead", _OVERHEAD[name]),
            bandwidth_single=single,
            bandwidth_multiple=number("bandwidth_multiple", single),
            message_price=number("upload_price") + number("download_price"),
            transfer_price=number("transfer_price"),
            hourly_price=(number("instance_price") + number("vm_price")) if infrastructure else 0.0,
            requests_per_hour=max(number("requests_per_hour", 1000.0), 1.0),
        )

    def seconds(self, found: Shape) -> float:
        bandwidth = 1e6 * (self.bandwidth_single if found.messages == 1 else self.bandwidth_multiple)
        return sum(self.overhead / 1000 + size / bandwidth for size in found.chain)

    def price(self, found: Shape, ranks: int, faas_memory_mb: int, faas_price: float) -> float:
        """USD; faas_price: of a GiB-second."""
        function = self.seconds(found) * ranks * faas_memory_mb / _GIB_IN_MB * faas_price
        store = found.messages * self.message_price + found.total_bytes / 1e9 * self.transfer_price
        return function + store + self.hourly_price / self.requests_per_hour


# Where a configuration has no figure: those of FMI's own example configuration (config/fmi.json there).
_OVERHEAD = {"S3": 40.4, "Redis": 5.2, "Direct": 0.34}
_BANDWIDTH = {"S3": 50.0, "Redis": 100.0, "Direct": 250.0}

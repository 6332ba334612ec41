"""What is left out of others' JSON is the same whether or not the short ways of `load` apply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from summarize.contract import untrusted
from summarize.contract.untrusted import load

LONG = "9" * 31
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.integers(10**28, 10**33)
    | st.text() | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.just("\udfff"), inner, max_size=5)
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_the_short_ways_leave_out_the_same(content: Any) -> None:
    body = json.dumps(content).encode()
    value = load(body, 1 << 20, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted, "_PLAIN", frozenset())
        patch.setattr(untrusted, "_integers", lambda body, most: lambda text: _whole(text, most))
        assert repr(load(body, 1 << 20, 30)) == repr(value)


def _whole(text: str, most_digits: int) -> Any:
    return int(text) if len(text.lstrip("-")) <= most_digits else untrusted._Refused(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("number", [LONG, f"-{LONG}", "9" * 5000])
def test_a_long_number_is_left_out_in_every_encoding(encoding: str, number: str) -> None:
    content, faults = load(f'{{"a": [1, {number}], "b": 2}}'.encode(encoding), 1 << 20, 30)
    assert content == {"a": [1, None], "b": 2}
    assert len(faults) == 1
    assert faults[0].startswith("a: ")


def test_a_plain_list_is_nested_too_deeply_as_any() -> None:
    content, faults = load(b"[" * 40 + b"1" + b"]" * 40, 1 << 20, 30)
    assert faults == [": is nested deeper than 32 levels"]
    assert json.dumps(content).count("[") == 32

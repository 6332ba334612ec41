"""How times and amounts of money are written, in the report and on the terminal alike."""

from __future__ import annotations

import math


def seconds_text(seconds: float) -> str:
    """'17.6 s'."""
    return f"{seconds:,.1f} s"


def usd_text(usd: float) -> str:
    """'$1,234.50', '$0.0930' or, if that would round too much away, two digits: '$0.000012'."""
    if usd >= 1 or not math.isfinite(usd):
        return f"${usd:,.2f}"
    decimals = 4 if usd == 0 else max(4, 1 - math.floor(math.log10(abs(usd))))
    return f"${usd:.{decimals}f}"

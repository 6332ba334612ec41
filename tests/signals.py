"""Ctrl-C in tests that run in the background."""

from __future__ import annotations

import signal


def let_children_hear_ctrl_c() -> None:
    """Programs that this process starts end on SIGINT again, where this process itself was told to ignore it.

    A shell starts what runs in the background with SIGINT ignored, and a program hands that on to all that it
    starts. A signal with a handler is reset instead; ours does nothing, so this process stays deaf to it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)

"""Being attached: what comes from the monitor, however its connection ends."""

from __future__ import annotations

import os
import struct

import pytest

from fastlayer.container import client
from fastlayer.container.attach import Attached, Outcome
from fastlayer.container.client import Ended

END = b"x" + struct.pack("=ii", 3, 0)


def outcome(*messages: bytes, unread: bool) -> tuple[Outcome, bytes]:
    """``unread``: the monitor goes without having read what we sent it."""
    ours, theirs = client.pair()
    source, sink = os.pipe()
    os.close(sink)  # standard input ends at once, which is told
    out = bytearray()
    try:
        with ours:
            with theirs:
                for message in messages:
                    theirs.send(message)
                if unread:
                    ours.send(b"e")
            return Attached(ours, out=out.extend, err=out.extend, stdin=None if unread else source).run(), bytes(out)
    finally:
        os.close(source)


@pytest.mark.parametrize("unread", [False, True])
def test_the_last_that_was_sent_is_heard(unread: bool) -> None:
    """unix(7): a connection with data that was not read is reset, before what came over it has been received."""
    assert outcome(b"oone ", b"rtwo", END, unread=unread) == (Outcome(Ended(3, False)), b"one two")


@pytest.mark.parametrize("unread", [False, True])
def test_a_monitor_that_was_killed(unread: bool) -> None:
    assert outcome(b"oone", unread=unread) == (Outcome(None, lost=True), b"one")

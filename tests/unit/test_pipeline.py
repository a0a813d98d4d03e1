"""The threads of a job, interrupted where it hurts."""

from __future__ import annotations

import threading

import pytest

from fastlayer.layer.pipeline import Pipeline


def test_interrupt_while_a_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt is what arrives, not a complaint about the thread that did not start."""

    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Pipeline() as pipeline:
        pipeline.spawn(lambda: None)


def test_a_thread_that_starts_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[threading.Thread] = []
    done: list[int] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Pipeline() as pipeline:
        pipeline.spawn(lambda: done.append(1))
    start(late[0])
    late[0].join()
    assert not done


def test_a_stage_that_fails_at_once_is_heard_by_channels_made_later() -> None:
    """As when a download fails before the first of its bytes is waited for."""

    def fail() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"), Pipeline() as pipeline:
        pipeline.spawn(fail)
        for thread in pipeline._threads:
            thread.join()
        pipeline.channel().get()

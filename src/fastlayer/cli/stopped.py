"""How a command is ended from outside: a signal becomes ``Stopped``, once, and for certain."""

from __future__ import annotations

import signal
import sys
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REMINDER_SECONDS = 0.1


class Stopped(BaseException):
    """A signal, or the end of who reads our output, asked us to stop; everything cleans up on the way out.

    No Exception, so that nobody on the way takes it for a failure; click would catch KeyboardInterrupt and EPIPE.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else "terminated"


def listen() -> None:
    """From now on the signals that end a command raise ``Stopped`` in the main thread."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a reader that goes away is a BrokenPipeError, which cleans up
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a background job stays deaf to Ctrl-C
            signal.signal(number, _stop)
    report = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Stopped) else report(lost)


def heard() -> None:
    """The command has ended: nobody has to be reminded."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(number: int, _frame: Any) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # impatience must not interrupt the cleaning up

    # What a handler raises is lost where the interpreter drops exceptions: in callbacks of weak references and of the
    # garbage collector, in the initialisation of extension modules. So it is raised again until it is seen.
    def remind(_number: int, _frame: Any) -> None:
        if not _being_handled():
            raise Stopped(number)

    signal.signal(signal.SIGALRM, remind)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, _REMINDER_SECONDS, _REMINDER_SECONDS)
    raise Stopped(number)


def _being_handled() -> bool:
    """Whether what was interrupted runs because of ``Stopped``: an ``except``, a ``finally``, an ``__exit__``."""
    error, seen = sys.exc_info()[1], 0
    while error is not None and seen < 100:
        if isinstance(error, Stopped):
            return True
        error, seen = error.__context__, seen + 1
    return False

"""How a command is ended from outside."""

from __future__ import annotations


class Stopped(BaseException):
    """A signal, or the end of who reads our output, asked us to stop; everything cleans up on the way out.

    No Exception, so that nobody on the way takes it for a failure; click would catch KeyboardInterrupt and EPIPE.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

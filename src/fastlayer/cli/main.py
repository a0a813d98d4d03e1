"""The ``fastlayer`` command: finds the verb, prints errors, decides the exit code.

Exit codes: 0 done; 1 failure (one line on stderr says why and what to do); 2 wrong usage; 130 interrupted, 143
terminated, 129 hung up, 141 nobody reads the output any more. ``run`` is like docker's: 125 instead of 1 and 2.
``diff --exit-code`` is like git: 0 same, 1 differs, 2 error.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from fastlayer.cli.stopped import Stopped, heard, listen

if TYPE_CHECKING:
    from fastlayer.cli.line.reading import Line

_GARBAGE_THRESHOLD = 50_000  # objects: what the imports make is no garbage
_LONGEST = 4000  # characters of the one line of an error
_RUN_CANNOT = 125  # of `run`, whose other statuses are the program's
_VERSION_WORDS = (["--version"], ["-V"], ["version"])


def main() -> NoReturn:
    """Entry point of the console script."""
    if "stdout" in _fill_closed_streams():  # before any work: a failed command leaves no output behind
        _leave(_say("standard output is closed: redirect it, to /dev/null if the result is not wanted", 1))
    if sys.argv[1:] in _VERSION_WORDS:  # answered before anything heavy is imported
        _leave(_print_version())
    listen()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    code = run(sys.argv[1:])
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process without taking the interpreter apart, which takes longer than many a command.

    Nor does the interpreter get to flush what cannot be written, and to complain once more.
    """
    atexit._run_exitfuncs()  # profilers and the like
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def _fill_closed_streams() -> set[str]:
    """Started with standard descriptors closed: nothing we open may take their numbers, and using them is an error.

    Returns the names of those that were closed.
    """
    closed = set()
    modes = {"stdin": (os.O_WRONLY, "r"), "stdout": (os.O_RDONLY, "w"), "stderr": (os.O_WRONLY, "w")}
    for number, (name, (flags, mode)) in enumerate(modes.items()):
        if getattr(sys, name) is None and os.open(os.devnull, flags) == number:
            closed.add(name)
            raw = io.FileIO(number, mode, closefd=False)  # no buffer: nothing is left to fail at the end
            setattr(sys, name, io.TextIOWrapper(raw, write_through=True))
    return closed


def _print_version() -> int:
    from fastlayer._version import __version__

    try:
        print(f"fastlayer {__version__}", flush=True)
    except OSError as exc:
        return _say(str(exc.strerror), 1)
    return 0


def run(args: list[str]) -> int:
    """Runs one command line and returns its exit code; prints the one line of an error."""
    try:
        return _run(args)
    except Stopped as exc:
        heard()  # here, where a reminder that is due already finds it handled: what the frames held may take long to go
        if exc.number == signal.SIGPIPE:
            return _end_quietly()
        return _say(str(exc), 128 + exc.number)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    finally:
        heard()


def _end_quietly() -> int:
    """Whoever read our output has gone: nothing to say, and nothing that the interpreter could fail to flush."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
    return 128 + signal.SIGPIPE


def _run(args: list[str]) -> int:
    from fastlayer.cli import lean
    from fastlayer.cli.line.declare import LineError

    lean.import_pathlib()
    wishes = {"debug": args[:1] in (["--debug"], ["-D"])}
    verb = args[1:] if wishes["debug"] else args
    line = None
    try:
        line = _line(args)
        if line is None:
            from fastlayer.cli.line.clicked import call

            return call(args, wishes)
        wishes["debug"] = line.debug
        result = line.command.callback(**line.given)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except LineError as exc:
        return misused(str(exc), "fastlayer" if line is None else line.path)
    except BrokenPipeError as exc:
        raise Stopped(signal.SIGPIPE) from exc
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # click has made the one of the other
            raise Stopped(signal.SIGPIPE) from exc
        return exc.code if isinstance(exc.code, int) else 0
    except Exception as exc:
        if wishes["debug"]:
            import traceback

            traceback.print_exc()
        return _failed(exc, verb)


def _line(args: list[str]) -> Line | None:
    """None: click has to look at it."""
    from fastlayer.cli.commands import cli
    from fastlayer.cli.line.reading import read

    return None if "_FASTLAYER_COMPLETE" in os.environ else read(cli, args)


def misused(message: str, command: str) -> int:
    """Says what is wrong with the line; returns the exit code."""
    code = _RUN_CANNOT if command.endswith(" run") else 2
    return _say(f"{message.rstrip('.')}: see `{command} --help`", code)


def _failed(exc: Exception, args: list[str]) -> int:
    from fastlayer.errors import FastlayerError

    git_style = args[:1] == ["diff"] and "--exit-code" in args
    is_run = (args[1:2] if args[:1] == ["container"] else args[:1]) == ["run"]
    code = 2 if git_style else _RUN_CANNOT if is_run else 1
    if isinstance(exc, FastlayerError):
        return _say(str(exc), max(exc.exit_code, 2 if git_style else 1))
    if isinstance(exc, OSError):
        from fastlayer.errors import show_path

        name = f"{show_path(exc.filename)}: " if exc.filename else ""
        return _say(f"{name}{exc.strerror or exc}", code)
    if isinstance(exc, MemoryError):
        return _say("out of memory", code)
    return _say(f"internal error: {type(exc).__name__}: {exc} (please report it; run with --debug for the trace)", code)


def _say(text: str, code: int) -> int:
    from fastlayer.cli.plain import printable

    line = printable(" ".join(text.split()))
    if len(line) > _LONGEST:  # the beginning says where, the end why
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    try:
        print(f"fastlayer: {line}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is listening; the exit code still tells
    return code


def __getattr__(name: str) -> Any:
    if name == "cli":  # for tools that look for the click group here
        from fastlayer.cli.commands import cli
        from fastlayer.cli.line.clicked import clicked

        return clicked(cli)
    raise AttributeError(name)


if __name__ == "__main__":
    main()

"""The command line, ``pressroom``."""

import signal
import sys
import traceback
from typing import Any

import typer

from schemas.secrets import note_environment, redact
from streams.cli import context
from streams.cli.app import app

__all__ = ["app", "main"]

_CTRL_C = 130
_INTERRUPTED = "interrupted; what was committed stays, run it again to go on"

# typer brings its own copy of click, or uses the one installed: this is its ClickException either way
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Runs the command line; mistakes get one line, never a stack trace.

    Exit status: 0 done, 1 a check failed or work was left, 2 wrong use, 130 interrupted, 143 told to
    end. With ``--json`` a command that fails prints ``{"error": …}``, unless it has printed its own
    document.
    """
    note_environment()
    sys.excepthook = _say_crash
    # like Ctrl-C: what a command has started ends with it
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run())


class _Terminated(BaseException):
    """SIGTERM: not KeyboardInterrupt, for which typer has a status of its own."""


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what was started is being ended
    raise _Terminated


def _run() -> int:
    from schemas.errors import PressroomError, UsageError

    try:
        status = int(app(standalone_mode=False) or 0)
        return _say(_INTERRUPTED, status) if status == _CTRL_C else status
    except UsageError as error:
        return _say(error, 2)
    except PressroomError as error:
        return _say(error, 1)
    except _Terminated:
        return _say(_INTERRUPTED, 143)
    except (KeyboardInterrupt, typer.Abort):
        return _say(_INTERRUPTED, _CTRL_C)
    except _ClickError as error:
        return _wrong_use(error)


def _wrong_use(error: Exception) -> int:
    message = getattr(error, "format_message", lambda: str(error))()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)  # noqa: T201
        return 2
    return _say(f"{' '.join(message.split())} (see --help)", 2)


def _say(message: object, status: int) -> int:
    print(redact(f"pressroom: {message}"), file=sys.stderr)  # noqa: T201
    if "--json" in sys.argv and not context.emitted:
        context.emit({"error": redact(str(message))})
    return status


def _say_crash(*error: Any) -> None:
    """A bug's stack trace, which may quote anything."""
    print(redact("".join(traceback.format_exception(*error))), file=sys.stderr, end="")  # noqa: T201

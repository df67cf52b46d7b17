"""The command line, ``pressroom``."""

import sys

from streams.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line; mistakes get one line, never a stack trace.

    Exit status: 0 done, 1 a check failed or work was left, 2 wrong use, 130 interrupted.
    """
    from schemas.errors import PressroomError, UsageError

    try:
        app()
    except UsageError as error:
        sys.exit(_say(error, 2))
    except PressroomError as error:
        sys.exit(_say(error, 1))
    except BrokenPipeError:
        sys.stderr.close()  # `pressroom tail … | head` has seen enough
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; what was committed stays, run it again to go on", 130))


def _say(message: object, status: int) -> int:
    print(f"pressroom: {message}", file=sys.stderr)  # noqa: T201
    return status

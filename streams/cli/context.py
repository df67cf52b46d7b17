"""What every command shares: settings, the pipeline, output."""

import json
import logging
import os
import sys
import traceback
from base64 import b64encode
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import UsageError
from schemas.secrets import redact

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from streams.pipeline import Pipeline
    from streams.settings import Settings

DEFAULT_APP = "streams.pipelines.newsroom:newsroom"

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document as the last line of output.")
]
Reuse = Annotated[
    str | None,
    typer.Option(
        "--reuse",
        metavar="on|off|AGE",
        help="Answer what was asked before from the ledgers: on, off, or up to an age like 12h or 7d.",
    ),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option("--budget-usd", min=0, metavar="USD", help="Leave when so much is spent."),
]
BudgetTokens = Annotated[
    int | None,
    typer.Option(
        "--budget-tokens", min=0, metavar="N", help="Leave when so many tokens are spent."
    ),
]


@dataclass
class Options:
    """What was given before the command's name."""

    app: str = DEFAULT_APP
    properties: Path | None = None
    verbose: bool = False


options = Options()


def settings(**given: Any) -> "Settings":
    """The settings, from the environment and the command line.

    Args:
        given: what a command's own options say; None says nothing.
    """
    from streams.settings import load_settings

    _log_to_stderr()
    return load_settings(properties=options.properties, **given)


def use_encryption() -> None:
    """Makes this process encrypt as the settings say; the pipeline's records must be known by then.

    Raises:
        UsageError: a field does not exist, or the keys can't be used.
    """
    from schemas.encryption import check_fields

    current = settings()
    check_fields(current.encrypted_fields)
    current.use_encryption()


def pipeline() -> "Pipeline":
    """The pipeline that ``--app`` names.

    Raises:
        UsageError: there is none, or it can't be imported.
    """
    from streams.pipeline import Pipeline

    module_name, colon, name = options.app.partition(":")
    if not colon:
        raise UsageError(f"--app {options.app!r} is not of the form module:pipeline")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        raise UsageError(f"can't import {module_name!r}: {_brief(error)}") from None
    found = getattr(module, name, None)
    if not isinstance(found, Pipeline):
        raise UsageError(f"{module_name} has no pipeline named {name!r}")
    found.check()
    use_encryption()
    return found


def _brief(error: BaseException) -> str:
    """One line on an error in somebody's module, with the place where it was raised."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    return said + (f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else "")


def console() -> "Console":
    """Where people see what goes on: standard error, so that standard output stays for results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def output() -> "Console":
    """Where a command's result goes when it is for people: standard output."""
    from rich.console import Console

    return Console(highlight=False)


def table(*columns: str) -> "Table":
    """An empty table for people."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


emitted = False
"""Whether :func:`emit` has printed anything."""


def emit(data: Any) -> None:
    """Prints data as one line of JSON on standard output."""
    global emitted
    emitted = True
    try:
        print(json.dumps(data, default=_plain, ensure_ascii=False), flush=True)  # noqa: T201
    except BrokenPipeError:
        # `pressroom tail … | head` has seen enough; nothing may be flushed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(value).decode()}
    return str(value)


class _Redacting(logging.Formatter):
    """Log lines, stack traces included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _log_to_stderr() -> None:
    level = logging.INFO if options.verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    # the client's own log says what its errors say again, many times a second while a broker is away
    logging.getLogger("kafka").setLevel(logging.INFO if options.verbose else logging.CRITICAL + 1)
    for name in ("httpx", "httpcore"):  # the registry's client tells of each request
        logging.getLogger(name).setLevel(logging.WARNING)

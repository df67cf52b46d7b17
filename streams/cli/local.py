"""``up``, ``down`` and ``status``: the embedded Kafka and model."""

from typing import Annotated

import typer

from streams.cli.context import Json, console, emit, settings
from streams.local import Status


def up(
    json: Json = False,
    kafka: Annotated[bool, typer.Option(help="Start Kafka.")] = True,
    model: Annotated[bool, typer.Option(help="Start the model server.")] = True,
) -> None:
    """Start the embedded Kafka and model, or find them running.

    The first start downloads about 140 MB, once. Example: pressroom up --no-model
    """
    from streams import local

    current, screen = settings(), console()
    status = local.up(current.home, current.cache, kafka=kafka, model=model, console=screen)
    _report(status, json)


def down(
    json: Json = False,
    purge: Annotated[
        bool, typer.Option(help="Also delete all topics of the embedded Kafka.")
    ] = False,
) -> None:
    """Stop the embedded Kafka and model. Topics stay for the next start.

    Example: pressroom down --purge
    """
    from streams import local

    home = settings().home
    stopped = local.down(home)
    if purge:
        local.purge(home)
    if json:
        emit({"stopped": stopped, "purged": purge})
    else:
        console().print("Stopped." if stopped else "Nothing was running.")


def status(json: Json = False) -> None:
    """Tell whether the embedded Kafka and model run, and where. Exit status 1 if they don't.

    Example: pressroom status --json
    """
    current = settings()
    _report(current.embedded, json)
    if not current.embedded.running:
        raise typer.Exit(1)


def _report(status: Status, json: bool) -> None:
    if json:
        emit(
            {
                "running": status.running,
                "bootstrap_servers": status.bootstrap_servers,
                "model_url": status.model_url,
            }
        )
        return
    screen = console()
    screen.print(f"Kafka  {status.bootstrap_servers or 'not running'}")
    screen.print(f"Model  {status.model_url or 'not running'}")

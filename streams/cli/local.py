"""``up``, ``down`` and ``status``: the embedded Kafka and model."""

from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import UsageError
from streams.cli.context import Json, console, emit, output, settings

if TYPE_CHECKING:
    from streams.settings import Settings

_KAFKA_HELP = "Start Kafka; by default unless PRESSROOM_BOOTSTRAP_SERVERS is set."
_MODEL_HELP = "Start the model server; by default unless OPENAI_BASE_URL is set."


def up(
    json: Json = False,
    kafka: Annotated[bool | None, typer.Option("--kafka/--no-kafka", help=_KAFKA_HELP)] = None,
    model: Annotated[bool | None, typer.Option("--model/--no-model", help=_MODEL_HELP)] = None,
) -> None:
    """Start the embedded Kafka and model, or find them running.

    What the settings take from elsewhere is only started when asked for by its option. The first
    start downloads about 140 MB, once. Example: pressroom up --no-model
    """
    from streams import local

    current, screen = settings(), console()
    kafka = current.uses_embedded_kafka if kafka is None else kafka
    model = current.uses_embedded_model if model is None else model
    if not (kafka or model):
        raise UsageError(
            "nothing to start: Kafka and the model are switched off by an option or set elsewhere; "
            "--kafka and --model start the embedded ones"
        )
    current.embedded = local.up(
        current.home, current.cache, kafka=kafka, model=model, console=screen
    )
    _report(current, json)


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
    purged = purge and local.purge(home)
    if json:
        emit({"stopped": stopped, "purged": purged})
        return
    screen = output()
    screen.print("Stopped." if stopped else "Nothing was running.")
    if purge:
        deleted = f"Deleted all topics, in {home / 'kafka'}" if purged else "There were no topics."
        screen.print(deleted, soft_wrap=True)


def status(json: Json = False) -> None:
    """Tell whether the embedded Kafka and model run, and where. Exit status 1 if they don't.

    Both must run; one that is set elsewhere (PRESSROOM_BOOTSTRAP_SERVERS, OPENAI_BASE_URL) need not,
    nor is it asked. If both are set elsewhere, the status tells whether an embedded one runs all the
    same. Example: pressroom status --json
    """
    current = settings()
    _report(current, json)
    if not _is_running(current):
        raise typer.Exit(1)


def _is_running(current: "Settings") -> bool:
    """Whether all runs that the settings make embedded; if that is nothing, whether anything does."""
    found = current.embedded
    wanted = [found.bootstrap_servers] if current.uses_embedded_kafka else []
    wanted += [found.model_url] if current.uses_embedded_model else []
    return all(wanted) if wanted else found.running


def _report(current: "Settings", json: bool) -> None:
    found = current.embedded
    if json:
        emit(
            {
                "running": _is_running(current),
                "bootstrap_servers": found.bootstrap_servers,
                "model_url": found.model_url,
            }
        )
        return
    kafka_absent = _absent(current.uses_embedded_kafka, "PRESSROOM_BOOTSTRAP_SERVERS")
    model_absent = _absent(current.uses_embedded_model, "OPENAI_BASE_URL")
    screen = output()
    screen.print(f"Kafka  {found.bootstrap_servers or kafka_absent}")
    screen.print(f"Model  {found.model_url or model_absent}")


def _absent(is_embedded: bool, setting: str) -> str:
    return "not running" if is_embedded else f"not running here: {setting} is set"

"""The commands by name; each is defined in the module that says what it is about."""

from pathlib import Path
from typing import Annotated

import typer

from streams.cli import acls, demo, inspect, keys, local, run
from streams.cli.context import DEFAULT_APP, options, output

app = typer.Typer(
    name="pressroom",
    help="LLM stages as exactly-once stream processors on Apache Kafka.",
    epilog="Begin with: pressroom demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output().print(version("pressroom"))
        raise typer.Exit


@app.callback()
def common(
    app_name: Annotated[
        str,
        typer.Option("--app", metavar="MODULE:PIPELINE", help="The pipeline to work with."),
    ] = DEFAULT_APP,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="librdkafka settings, name=value lines."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    options.app, options.properties, options.verbose = app_name, config, verbose
    if config is not None:
        from streams.settings import read_properties

        read_properties(config)  # say at once what is wrong with it


topics = typer.Typer(help="Topics of the pipeline.", no_args_is_help=True, rich_markup_mode=None)
schemas = typer.Typer(
    help="Schemas, kept and in the registry.", no_args_is_help=True, rich_markup_mode=None
)
key_ring = typer.Typer(
    help="Keys of encrypted fields.", no_args_is_help=True, rich_markup_mode=None
)
dead = typer.Typer(help="Dead letters.", no_args_is_help=True, rich_markup_mode=None)

app.command()(demo.demo)
app.command()(local.up)
app.command()(local.down)
app.command()(local.status)
app.add_typer(topics, name="topics")
topics.command("create")(run.create)
app.add_typer(schemas, name="schemas")
schemas.command("check")(inspect.schemas_check)
schemas.command("keep")(inspect.schemas_keep)
app.command()(inspect.topology)
app.command()(run.ingest)
app.command()(run.worker)
app.command()(run.sink)
app.command()(inspect.tail)
app.add_typer(key_ring, name="keys")
key_ring.command("create")(keys.create)
key_ring.command("rotate")(keys.rotate)
app.add_typer(dead, name="dead")
dead.command("list")(inspect.dead_list)
dead.command("show")(inspect.dead_show)
app.command()(inspect.audit)
app.command()(acls.acls)

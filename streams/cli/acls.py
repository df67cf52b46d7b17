"""``acls``: the least rights, for a Kafka with access control."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.context import Json, emit, output, pipeline, settings, table

if TYPE_CHECKING:
    from streams.rights import Right


def acls(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages, or the commands topics, ingest, sink, tail, audit; by default all.",
            metavar="STAGE-OR-COMMAND…",
        ),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            metavar="User:NAME", help="Who gets them; by default one each, User:PIPELINE.NAME."
        ),
    ] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print calls of Kafka's kafka-acls.sh.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Create these ACLs.")] = False,
    json: Json = False,
) -> None:
    """List the least rights on Kafka that stages and commands need, or create them.

    Example: pressroom acls summary --principal User:ann
    """
    from schemas.errors import UsageError
    from streams.rights import grant, rights_by_part

    chosen = pipeline()
    parts = rights_by_part(chosen)
    unknown = [name for name in names or () if name not in parts]
    if unknown:
        raise UsageError(
            f"no stage or command {unknown[0]!r} needs rights; there: {', '.join(parts)}"
        )
    if principal is not None and ":" not in principal:
        raise UsageError(f"a principal is of the form User:NAME, not {principal!r}")
    asked = {n: parts[n] for n in names or parts}
    rows = [(n, principal or f"User:{chosen.name}.{n}", r) for n, rs in asked.items() for r in rs]
    if apply:
        given: dict[str, list[Right]] = {}
        for _, who, right in rows:
            given.setdefault(who, []).append(right)
        grant(settings().client_config(), given)
    if json:
        emit({"acls": [_to_json(*row) for row in rows]})
    elif commands:
        for who, options in dict.fromkeys((who, right.options()) for _, who, right in rows):
            typer.echo(
                "kafka-acls.sh --bootstrap-server $BOOTSTRAP --command-config admin.properties "
                f"--add --allow-principal {who} {options}"
            )
    else:
        shown = table("For", "principal", "operation", "resource", "name")
        for name, who, right in rows:
            star = "*" if right.prefixed else ""
            shown.add_row(name, who, right.operation, right.kind, right.name + star)
        output().print(shown)


def _to_json(name: str, who: str, right: "Right") -> dict[str, str]:
    return {
        "for": name,
        "principal": who,
        "operation": right.operation,
        "resource": right.kind,
        "name": right.name,
        "pattern": "prefixed" if right.prefixed else "literal",
    }

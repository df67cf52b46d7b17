"""Pressroom beside other stream processors: same input, same machine, same broker, in turns.

``python -m benchmarks.against_peers [--rounds N] [--systems NAME,…] [--workloads NAME,…] [--quick]
[--into PAGE]``. It starts an embedded Kafka of its own, or takes the one that
``PRESSROOM_BOOTSTRAP_SERVERS`` names. Systems that are not installed are left out with a line;
``make bench-peers`` installs them.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common import Figures, kafka, leave_cleanly, machine, parser, write_into
from benchmarks.measure import MEAN, QUICK, RATE, Bench, Sizes
from benchmarks.model_server import SlowModel
from benchmarks.systems import HAND_WRITTEN, SYSTEMS, System, versions

WORKLOADS = ("throughput", "latency", "slow_calls", "kill")
MARK = "peers"

Results = dict[tuple[str, str], list[Any]]
"""The rounds' results of each workload and system."""


def works_on(system: System, workload: str) -> bool:
    """Whether a system takes part in a workload."""
    if workload == "latency":
        return system.works == ("copy", "ask")
    return ("copy" if workload == "throughput" else "ask") in system.works


def measure(
    bench: Bench, systems: Sequence[System], workloads: Sequence[str], rounds: int, screen: Console
) -> Results:
    """Every workload of every system, one after the other, then the next round."""
    turns = [
        (n, workload, system)
        for n in range(rounds)
        for workload in workloads
        for system in systems
        if works_on(system, workload)
    ]
    results: Results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=screen) as progress:
        bar = progress.add_task("", total=len(turns))
        for n, workload, system in turns:
            what = workload.replace("_", " ")
            progress.update(bar, description=f"round {n + 1} of {rounds}: {what}, {system.name}")
            if not screen.is_terminal:
                screen.print(f"round {n + 1} of {rounds}: {what}, {system.name}", markup=False)
            try:
                found = getattr(bench, workload)(system)
            except RuntimeError as error:  # a peer that fails is a result too
                progress.console.print(f"{what}, {system.name}: {error}", markup=False)
            else:
                results.setdefault((workload, system.name), []).append(found)
            progress.advance(bar)
    return results


# --- tables ---------------------------------------------------------------------------------------


def figures(results: Results, systems: Sequence[System], sizes: Sizes) -> list[Figures]:
    """The tables, of the workloads that were measured."""
    measured = {workload for workload, _ in results}
    tables = [_ratios(*shape, results, systems) for shape in _shapes(sizes) if shape[0] in measured]
    if "kill" in measured:
        tables.append(_kills(results, systems, sizes))
    return tables


Shape = tuple[str, str, str, Callable[[Any], float], str]


def _shapes(sizes: Sizes) -> list[Shape]:
    """Of each workload: its title, what is measured, the number in a result, its format."""
    slow = f"{sizes.calls} calls of mean {MEAN * 1000:.0f} ms, {sizes.at_once} in flight"
    return [
        (
            "throughput", f"Pass-through of {sizes.records:,} records of 600 bytes",
            "records/s", lambda seen: float(seen.rate), ",.0f",
        ),
        (
            "latency", f"Latency at {RATE:.0f} records/s, sent to readable",
            "p50, ms", lambda seconds: float(seconds * 1000), ",.1f",
        ),
        ("slow_calls", slow, "seconds", lambda pair: float(pair[0]), ".2f"),
    ]  # fmt: skip


def _ratios(
    workload: str, title: str, unit: str, number: Callable[[Any], float], form: str,
    results: Results, systems: Sequence[System],
) -> Figures:  # fmt: skip
    header = ["system", unit, "ratio", "spread", "remarks"]
    base = [number(r) for r in results.get((workload, HAND_WRITTEN.name), [])]
    rows = []
    for system in systems:
        found = results.get((workload, system.name), [])
        if not found:
            continue
        values = [number(r) for r in found]
        ratios = [value / other for value, other in zip(values, base, strict=False)]
        rows.append(
            [system.name, format(statistics.median(values), form), *_spread(ratios), _remark(found)]
        )
    return Figures(title, header, rows)


def _spread(ratios: list[float]) -> tuple[str, str]:
    if not ratios:
        return "-", "-"
    return f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}"


def _remark(found: list[Any]) -> str:
    """What else there is to say of a system's rounds: the ideal of the calls, doubled records."""
    if isinstance(found[0], tuple):
        ideal = statistics.median(seconds / ideal for seconds, ideal in found)
        return f"{ideal:.2f} of the ideal"
    doubled = sum(getattr(seen, "doubled", 0) for seen in found)
    return f"{doubled:,} doubled" if doubled else ""


def _kills(results: Results, systems: Sequence[System], sizes: Sizes) -> Figures:
    title = f"{sizes.kill_calls} such calls, one SIGKILL when half are answered (least to most)"
    header = [
        "system", "answered, and paid again", "in flight, and paid again", "doubled", "lost",
        "s from kill to the last output",
    ]  # fmt: skip
    rows = []
    for system in systems:
        found = results.get(("kill", system.name), [])
        if found:
            columns = [
                [k.paid_again for k in found], [k.in_flight for k in found],
                [k.doubled for k in found], [k.lost for k in found],
                [round(k.seconds) for k in found],
            ]  # fmt: skip
            rows.append([system.name, *map(_range, columns)])
    return Figures(title, header, rows)


def _range(values: list[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least}-{most}"


def guarantees(systems: Sequence[System]) -> Figures:
    """What each system promises."""
    rows = [[s.name, s.guarantee] for s in systems if s.works == ("copy", "ask")]
    return Figures("What each says it keeps when a program is killed", ["system", "keeps"], rows)


# --- the command ----------------------------------------------------------------------------------


def chosen(names: str, screen: Console) -> list[System]:
    """The systems to measure; says which can't be."""
    wanted = {name.strip().lower() for name in names.split(",") if name.strip()}
    systems = []
    for system in SYSTEMS:
        if wanted and system.name.lower() not in wanted:
            continue
        if reason := system.missing():
            screen.print(f"{system.name} is left out: {reason}", markup=False)
        else:
            systems.append(system)
    return systems


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--systems", default="", help="names, comma-separated; default all")
    made.add_argument("--workloads", default=",".join(WORKLOADS))
    return made.parse_args()


def main() -> int:
    """Measures and prints tables."""
    options, screen = arguments(), Console(stderr=True)
    leave_cleanly()
    sizes = QUICK if options.quick else Sizes()
    systems = chosen(options.systems, screen)
    workloads = [w for w in WORKLOADS if w in options.workloads.split(",")]
    if not systems or not workloads:
        screen.print("no such system or workload here", markup=False)
        return 2
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pressroom-peers-") as folder,
            closing(SlowModel(MEAN)) as model,
            kafka() as config,
        ):
            bench = Bench(config, model, Path(folder), sizes)
            results = measure(bench, systems, workloads, options.rounds, screen)
    except KeyboardInterrupt:
        screen.print("Interrupted; nothing was left running.")
        return 130
    tables = figures(results, systems, sizes)
    for table in tables:
        table.show(Console())
    if options.into is not None:
        about = f"{machine(*versions(systems))}. {options.rounds} rounds."
        content = [about, *(t.markdown() for t in [*tables, guarantees(systems)])]
        write_into(options.into, MARK, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

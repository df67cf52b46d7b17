"""The proof: from the topics alone, that every input came out exactly once.

Every record a stage writes names the inputs it was made from (``ce_inputs``), and a committed offset
says how far the stage got. So of each committed input it can be asked: is it in an output, in a dead
letter, in a join's state waiting for its other half, or marked as filtered? Nowhere is *missing*, more
than one output of the same part is a *duplicate*. And of each record that a stage wrote: are its inputs
there, or is it *unfounded*? Counted is what a read-committed reader sees.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from consumers.reader import Partition, end_offsets, partitions_of, read_settled
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.message import Position, Received, inputs_of
from schemas.records import LedgerEntry
from streams.admin import committed_offsets
from streams.ledger import entry_in
from streams.pipeline import Pipeline
from streams.stage import Stage

SHOWN = 20
"""How many positions of what is wrong a report names."""


@dataclass(slots=True)
class StageAudit:
    """What became of one stage's inputs; counts are of records.

    ``inputs`` are committed; ``unread`` are in the topics and not committed yet. ``unfounded`` are
    outputs, dead letters and filtered marks that name as an input what the stage does not read, or an
    offset that its partition has not reached, or nothing.

    ``calls`` are the completions in the stage's ledger, each paid for; ``repaid`` are those of them that
    answer a question which the same input had asked before; ``reused`` are questions that were answered
    by a completion that another input had paid for. ``requests`` are the tries that the ledger tells of,
    those that were refused or lost, too: of the ``requests - calls`` all that were not refused were
    maybe paid. Compaction takes away the intents of what was answered. ``unanswered`` are
    questions of an input that were begun and have neither completion nor reuse: under way now, lost, or
    refused for good. ``unreadable`` are records of the ledger that are no entries. Tokens and cost are
    of all calls; the cost is in US dollars, and None when a model's price is not known or the stage
    asks none.
    """

    stage: str
    inputs: int = 0
    outputs: int = 0
    dead: int = 0
    missing: int = 0
    duplicates: int = 0
    unfounded: int = 0
    calls: int = 0
    requests: int = 0
    repaid: int = 0
    reused: int = 0
    unanswered: int = 0
    filtered: int = 0
    waiting: int = 0
    unread: int = 0
    unreadable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.missing and not self.duplicates and not self.unfounded


@dataclass(slots=True)
class Audit:
    """The report on a pipeline. ``ok`` holds when no stage lost, doubled or made up anything."""

    stages: list[StageAudit]

    @property
    def ok(self) -> bool:
        return all(stage.ok for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "stages": [asdict(stage) for stage in self.stages]}


class _Evidence:
    """What the topics say about one stage."""

    def __init__(
        self,
        stage: Stage,
        committed: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        """
        Args:
            stage: whose.
            committed: how far it got in each partition.
            ends: those of its inputs before anything was read.
            framing: how the ledger's entries are written.
        """
        self._ledger = framing.reader(LedgerEntry)
        self.report = StageAudit(stage.name)
        self._committed, self._ends = committed, ends
        self._read = {t.name for t in stage.reads}
        self._inputs: set[Position] = set()
        self._parts: dict[Position, Counter[str]] = defaultdict(Counter)
        self._expected: dict[Position, int] = {}
        self._waiting: dict[tuple[int, bytes | None], list[Position]] = {}
        self._doubtful: list[tuple[Position, list[Position]]] = []
        self._unreadable: set[Position] = set()
        self._intents: Counter[tuple[str, str]] = Counter()
        self._answers: Counter[tuple[str, str]] = Counter()
        self._reuses: set[tuple[str, str]] = set()
        self._costs: list[float | None] = []

    def see_input(self, received: Received) -> None:
        if received.topic not in self._read:
            return
        if self._is_committed(received.position):
            self._inputs.add(received.position)
        else:
            self.report.unread += 1

    def see_output(self, received: Received) -> None:
        self.report.outputs += 1
        self._see_outcome(received, "output")

    def see_dead_letter(self, received: Received) -> None:
        self.report.dead += 1
        self._see_outcome(received, "dead")

    def see_filtered(self, received: Received) -> None:
        self.report.filtered += 1
        self._see_outcome(received, "filtered")

    def see_state(self, received: Received) -> None:
        # a changelog: the last record of a key counts, a tombstone takes it away
        half = (received.partition, received.key)
        if received.value is None:
            self._waiting.pop(half, None)
        else:
            self._waiting[half] = inputs_of(received.headers)

    def see_ledger(self, received: Received) -> None:
        if received.value is None:
            return
        entry = entry_in(received, self._ledger)
        if entry is None:
            self._unreadable.add(received.position)
            return
        question = (entry.call_id, entry.inputs)
        if entry.kind == "intent":
            self._intents[question] += 1
            return
        if entry.kind == "reuse":
            self._reuses.add(question)
            return
        self._answers[question] += 1
        self._costs.append(entry.cost_usd)
        self.report.prompt_tokens += entry.prompt_tokens
        self.report.completion_tokens += entry.completion_tokens

    def conclude(self, ends: Mapping[Partition, int]) -> StageAudit:
        """The report.

        Args:
            ends: those of the stage's inputs after everything was read.
        """
        self.report.calls = self._answers.total()
        self.report.repaid = self.report.calls - len(self._answers)
        self.report.reused = len(self._reuses)
        # a result had an intent, which compaction has taken away if it is not there
        self.report.requests = (self._intents | self._answers).total()
        self.report.unanswered = len(self._intents.keys() - self._answers.keys() - self._reuses)
        if self._costs and None not in self._costs:
            self.report.cost_usd = sum(c for c in self._costs if c is not None)
        for position in (p for positions in self._waiting.values() for p in positions):
            if self._is_committed(position):
                self.report.waiting += 1
                self._parts[position]["waiting 0/1"] += 1
                self._expected[position] = 1
        report = self.report
        report.inputs = len(self._inputs)
        self._judge("missing", self._inputs - self._parts.keys())
        self._judge("missing", {p for p, n in self._expected.items() if len(self._parts[p]) < n})
        self._judge(
            "duplicates",
            {
                p
                for p, parts in self._parts.items()
                if max(parts.values()) > 1 or len(parts) > self._expected[p]
            },
        )
        self._judge("unfounded", {r for r, inputs in self._doubtful if not _are_in(inputs, ends)})
        self._judge("unreadable", self._unreadable)
        return report

    def _judge(self, what: str, positions: set[Position]) -> None:
        setattr(self.report, what, getattr(self.report, what) + len(positions))
        room = SHOWN - len(self.report.examples)
        self.report.examples += [f"{what}: {position}" for position in sorted(positions)[:room]]

    def _see_outcome(self, received: Received, kind: str) -> None:
        part = (dict(received.headers).get("ce_part") or b"0/1").decode("ascii", "replace")
        inputs = inputs_of(received.headers)
        if not _are_in(inputs, self._ends):  # it may have been written meanwhile
            self._doubtful.append((received.position, inputs))
        for position in inputs:
            if self._is_committed(position):
                self._parts[position][f"{kind} {part}"] += 1
                self._expected[position] = _count_in(part)

    def _is_committed(self, position: Position) -> bool:
        return position.offset < self._committed.get((position.topic, position.partition), 0)


def _are_in(inputs: Collection[Position], ends: Mapping[Partition, int]) -> bool:
    """Whether a record's inputs are there, or were until retention deleted them."""
    return bool(inputs) and all(0 <= i.offset < ends.get((i.topic, i.partition), 0) for i in inputs)


def _count_in(part: str) -> int:
    _, _, count = part.partition("/")
    return int(count) if count.isdigit() else 1


def audit(
    config: Mapping[str, Any],
    pipeline: Pipeline,
    on_progress: Callable[[int], None] = lambda _: None,
    framing: Framing = SINGLE_OBJECT,
) -> Audit:
    """Audits a pipeline, whether its workers run or not.

    Args:
        config: librdkafka settings.
        pipeline: what to audit.
        on_progress: told the number of records read so far.
        framing: how values are written.

    Raises:
        UsageError: a topic does not exist.
        RetryLater: no broker or no registry answers, or a transaction stays open.
    """
    # offsets first: whatever they cover is in the topics by then
    stages = pipeline.stages.values()
    committed = {s.name: committed_offsets(config, s) for s in stages}
    ends = {s.name: _input_ends(config, s) for s in stages}
    evidence = {s.name: _Evidence(s, committed[s.name], ends[s.name], framing) for s in stages}
    records = _counted(read_settled(config, [t.name for t in pipeline.topics]), on_progress)
    _look_at(records, pipeline, evidence)
    return Audit([evidence[s.name].conclude(_input_ends(config, s)) for s in stages])


def _input_ends(config: Mapping[str, Any], stage: Stage) -> dict[Partition, int]:
    counts = partitions_of(config, [t.name for t in stage.reads])
    return end_offsets(config, [(name, p) for name, count in counts.items() for p in range(count)])


def _counted(records: Iterable[Received], on_progress: Callable[[int], None]) -> Iterable[Received]:
    count = 0
    for count, received in enumerate(records, 1):
        if count % 1000 == 0:
            on_progress(count)
        yield received
    on_progress(count)


def _look_at(
    records: Iterable[Received], pipeline: Pipeline, evidence: Mapping[str, _Evidence]
) -> None:
    states = {s.state.name: evidence[s.name] for s in pipeline.stages.values() if s.state}
    ledgers = {s.ledger.name: evidence[s.name] for s in pipeline.stages.values() if s.ledger}
    dead, filtered = pipeline.dead_letters.name, pipeline.filtered.name
    prefix = f"{pipeline.name}/"
    for received in records:
        if received.topic in states:
            states[received.topic].see_state(received)
            continue
        if received.topic in ledgers:
            ledgers[received.topic].see_ledger(received)
            continue
        for stage_evidence in evidence.values():
            stage_evidence.see_input(received)
        source = (dict(received.headers).get("ce_source") or b"").decode("utf-8", "replace")
        writer = evidence.get(source.removeprefix(prefix)) if source.startswith(prefix) else None
        if writer is None:
            continue
        if received.topic == dead:
            writer.see_dead_letter(received)
        elif received.topic == filtered:
            writer.see_filtered(received)
        else:
            writer.see_output(received)

"""A worker: stages run side by side in one process, each by its own exactly-once loop."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from producers.transactional import TransactionalProducer
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import PressroomError, Refused, RetryLater, Stop
from streams.admin import check_topics
from streams.calls import Caller
from streams.completions import Completions
from streams.connection import patiently
from streams.exactly_once import ExactlyOnce
from streams.instance import Instances
from streams.ledger import OnLoss
from streams.processing import Processor
from streams.rights import check_rights, rights_of_stage
from streams.runner import OwnThread
from streams.stage import Stage

log = logging.getLogger(__name__)

GRACE = 20.0
"""Seconds a leaving worker waits for the calls that are under way."""


class Worker:
    """Runs stages until told to stop, or until one of them has to stop."""

    def __init__(
        self,
        stages: Sequence[Stage],
        config: Mapping[str, Any],
        caller: Caller | None,
        instances: Instances,
        concurrency: int | None = None,
        earlier: Completions | None = None,
        framing: Framing = SINGLE_OBJECT,
        grace: float = GRACE,
        on_loss: OnLoss = "stop",
    ) -> None:
        """
        Args:
            stages: what to run.
            config: librdkafka settings.
            caller: asks the model, for the stages that ask one.
            instances: gives the transactional ids.
            concurrency: calls at once of each stage; by default as each says.
            earlier: the completions that may be taken again; None asks every question.
            framing: how values are written.
            grace: seconds it waits, when it leaves, for the calls that are under way.
            on_loss: what to do where a ledger has lost entries.

        Raises:
            UsageError: a right, topic or prompt is missing, joined topics don't fit, or a schema is
                refused.
            RetryLater: no broker or no registry answers.
        """
        self._instances, self._earlier, self._grace = instances, earlier, grace
        self._config = config
        self._thread = OwnThread()
        self.loops: list[ExactlyOnce] = []
        # before the first record: from here on the registry may be away
        framing.prepare([topic for stage in stages for topic in stage.topics])
        for stage in stages:
            patiently(partial(check_rights, config, rights_of_stage(stage)))
            partitions = patiently(partial(check_topics, config, stage))
            processor = Processor(stage, caller, partitions, framing)
            producer = TransactionalProducer(config, instances.transactional_id(stage))
            self.loops.append(
                ExactlyOnce(
                    processor,
                    producer,
                    config,
                    self._thread,
                    concurrency,
                    earlier=earlier,
                    on_loss=on_loss,
                )
            )
        self._threads: list[threading.Thread] = []
        self.failure: PressroomError | None = None

    def start(self) -> None:
        """Starts every stage's loop in a thread of its own.

        Raises:
            RetryLater: no broker answers.
        """
        if self._earlier is not None:
            patiently(self._earlier.open)
        # records come and go by the thousand and hold no cycles: looking through all of them for
        # garbage every 700 objects took a third of a worker's time
        gc.set_threshold(200_000, 50, 1000)
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=loop.stage.name)
            for loop in self.loops
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, loop: ExactlyOnce) -> None:
        try:
            loop.run(self._grace)
        except PressroomError as error:
            said = self._explained(error, loop.stage)
            self.failure = self.failure or type(error)(f"{loop.stage.name}: {said}")
        except Exception as error:  # a bug: say which stage, stop the others
            log.exception("stage %s", loop.stage.name)
            self.failure = self.failure or Stop(f"{loop.stage.name}: {error!r}")
        finally:
            self.stop()

    def _explained(self, error: PressroomError, stage: Stage) -> PressroomError:
        """What the client says of a right that was taken away leaves out on what."""
        if isinstance(error, Refused):
            try:
                check_rights(self._config, rights_of_stage(stage))
            except PressroomError as named:
                return named
        return error

    def stop(self) -> None:
        """Tells every loop to commit what is finished and to leave."""
        for loop in self.loops:
            loop.stop()

    @property
    def idle(self) -> bool:
        """Whether every stage has read its topics to the end and has nothing in work."""
        return all(loop.idle for loop in self.loops)

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait(
        self, until_idle: float | None = None, on_tick: Callable[[], None] = lambda: None
    ) -> None:
        """Returns when all loops have ended.

        Args:
            until_idle: stop after so many seconds without anything to do; None runs on.
            on_tick: called several times a second.

        Raises:
            PressroomError: why a stage stopped by itself.
            RetryLater: it was idle, but there are records that nobody can read yet.
        """
        idle_since: float | None = None
        behind: list[str] = []
        while self.running:
            time.sleep(0.1)
            on_tick()
            idle_since = (idle_since or time.monotonic()) if self.idle else None
            idle_for = time.monotonic() - idle_since if idle_since is not None else -1.0
            if until_idle is not None and idle_for >= until_idle:
                behind = behind or [place for loop in self.loops for place in loop.behind]
                self.stop()
        self.close()
        if self.failure is not None:
            raise self.failure
        if behind:
            raise RetryLater(
                f"{behind[0]}: a transaction of another producer is open; what stands behind was left"
            )

    def close(self) -> None:
        """Waits for the loops' threads; call :meth:`stop` before."""
        for thread in self._threads:
            thread.join()
        self._thread.close()
        if self._earlier is not None:
            self._earlier.close()
        self._instances.release()

"""A task: works in order, and the bytes that they hold."""

from schemas.message import Received
from streams.processing import Work
from streams.task import MAX_TRANSACTION, Task, next_offsets

VALUE, KEY = b"12345678", b"ab"


def _received(offset: int) -> Received:
    return Received("in", 0, offset, 0, KEY, VALUE, [])


def _work(offset: int, finished: bool = True) -> Work:
    work = Work(_received(offset))
    work.outgoing = [] if finished else None
    return work


def _task(*finished: bool) -> Task:
    task = Task(None)
    for offset, each in enumerate(finished):
        task.put(_work(offset, each))
    return task


def test_its_size_is_that_of_the_inputs_it_holds() -> None:
    task, one = Task(None), len(VALUE) + len(KEY)
    task.put(_work(0))
    task.put(_work(1))
    task.hold(_received(2))
    assert (len(task), task.size) == (3, 3 * one)
    task.release()
    assert (len(task), task.size) == (2, 2 * one)
    task.done(1)
    assert (len(task), task.size) == (1, one)
    task.forget_below({("in", 0): 2})
    assert (len(task), task.size) == (0, 0)


def test_works_are_committed_up_to_the_first_that_is_not_finished() -> None:
    assert len(_task(True, True, False, True).finished()) == 2
    assert _task(False, True).finished() == []


def test_a_transaction_has_an_end() -> None:
    assert len(_task(*[True] * (MAX_TRANSACTION + 1)).finished()) == MAX_TRANSACTION


def test_what_turns_out_to_be_committed_is_forgotten() -> None:
    task = _task(True, False, True)
    forgotten = task.forget_below({("in", 0): 2, ("other", 0): 9})
    assert [work.cause.offset for work in forgotten] == [0, 1]
    assert [work.cause.offset for work in task.queue] == [2]


def test_the_next_offset_is_that_after_the_last_input() -> None:
    task = _task(True, True, False)
    (after,) = next_offsets([(task, task.finished())], topics=1)
    assert (after.topic, after.partition, after.offset) == ("in", 0, 2)
    (same,) = next_offsets([(task, [])], topics=1)
    assert same.offset == 0

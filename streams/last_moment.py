"""The last moment before a request leaves: the one in which it may still be withheld."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Withheld(Exception):
    """The request must not leave, and did not."""


_checks: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("checks", default=())


@contextmanager
def last_moment(check: Callable[[], None]) -> Iterator[None]:
    """Within, calls this when a request is ready to leave: connected, nothing sent.

    Args:
        check: raises :class:`Withheld` if it must not.
    """
    token = _checks.set((*_checks.get(), check))
    try:
        yield
    finally:
        _checks.reset(token)


def check_the_last_moment() -> None:
    """What a model calls just before a request leaves.

    Raises:
        Withheld: it must not.
    """
    for check in _checks.get():
        check()

"""The model client: the one place that speaks to an endpoint, and the seam where tests put another.

Any OpenAI-compatible endpoint will do: vLLM, llama.cpp, Ollama, a hosted API. Errors are sorted by
what they concern: this request (dead letter), the moment (try again), or the configuration (stop).
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from schemas.errors import RecordRejected, RetryLater, Stop
from schemas.secrets import BLOT, note_secret, note_url, redact
from streams.prompts import Rendered

if TYPE_CHECKING:
    from openai import AsyncOpenAI

JsonSchema = dict[str, Any]

_LONGEST_WAIT = 300.0
_LATER = 1.0
_A_REAL_KEY = 16


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked: a prompt, and the JSON schema to decode under."""

    prompt: Rendered
    name: str
    schema: JsonSchema
    max_tokens: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer. ``text`` should be JSON under the request's schema, but may not be."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    reused: bool = False
    """Whether it answered an earlier question and was kept, so that nothing was paid for it now."""


class Model(Protocol):
    """Anything that completes requests."""

    @property
    def name(self) -> str:
        """The model that is asked."""
        ...

    async def complete(self, request: Request) -> Completion:
        """The answer to one request.

        Raises:
            Overloaded: there are too many requests.
            Unreachable: there is no connection.
            MaybePaid: there is no usable answer, and it may have begun to answer.
            RetryLater: it is broken or away in another way.
            RecordRejected: the endpoint refuses this very request.
            Stop: the endpoint refuses every request (key, model name, address).
            Withheld: see :func:`last_moment`.
        """
        ...


class Overloaded(RetryLater):
    """The endpoint takes no more at the moment."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        """
        Args:
            message: what it said.
            seconds: when to come again, if it said so.
        """
        super().__init__(message)
        self.seconds = seconds


class Unreachable(RetryLater):
    """No connection to the endpoint was ever open, so nothing was asked."""


class MaybePaid(RetryLater):
    """The request may have reached the endpoint, and an answer may have been paid for."""


class Withheld(Exception):
    """The request must not leave, and did not."""


_checks: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("checks", default=())


@contextmanager
def last_moment(check: Callable[[], None]) -> Iterator[None]:
    """Within, calls this when a request is ready to leave: connected, its headers sent.

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


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint."""

    def __init__(self, base_url: str, api_key: str, model: str, timeout: float = 120.0) -> None:
        """
        Args:
            base_url: as in ``OPENAI_BASE_URL``, ending in ``/v1`` as a rule.
            api_key: as in ``OPENAI_API_KEY``.
            model: the model's name at the endpoint.
            timeout: seconds for one request.
        """
        note_secret(api_key)
        note_url(base_url)
        self.name = model
        self._base_url, self._api_key, self._timeout = base_url, api_key, timeout
        self._client: AsyncOpenAI | None = None

    async def complete(self, request: Request) -> Completion:
        import openai

        try:
            # the client limits each step of an answer; one that drips in would never end
            async with asyncio.timeout(self._timeout + _LATER):
                return await self._ask(request)
        except openai.APIStatusError as error:
            raise self._sorted(error) from error
        except openai.APITimeoutError as error:
            kind = Unreachable if _unsent(error) else MaybePaid
            raise kind(f"no answer within {self._timeout:g} s") from error
        except TimeoutError as error:
            raise MaybePaid(f"no whole answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, Withheld):
                raise cause from None
            if _unsent(error):
                raise Unreachable(redact(f"no connection to {self._base_url}: {cause}")) from error
            raise MaybePaid(
                redact(f"{self._base_url} broke off before it had answered: {cause!r}")
            ) from error
        except openai.OpenAIError as error:
            raise MaybePaid(f"no usable answer: {error}") from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise MaybePaid(redact(f"not an OpenAI-compatible answer: {error!r}")[:300]) from error

    async def _ask(self, request: Request) -> Completion:
        prompt = request.prompt
        answer: Any = await self._connected().chat.completions.create(
            model=self.name,
            messages=[
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
            max_tokens=request.max_tokens,
            temperature=prompt.temperature,
            seed=request.seed,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": request.name, "schema": request.schema, "strict": True},
            },
        )
        usage = answer.usage
        return Completion(
            text=self._without_key(answer.choices[0].message.content or ""),
            model=str(answer.model or self.name),
            prompt_tokens=int(usage.prompt_tokens) if usage else 0,
            completion_tokens=int(usage.completion_tokens) if usage else 0,
        )

    def _without_key(self, text: str) -> str:
        # a completion is kept for good; a short key may well be a word that belongs there
        return text.replace(self._api_key, BLOT) if len(self._api_key) >= _A_REAL_KEY else text

    def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient

            # retries are ours alone: hidden ones would be paid for and not counted
            self._client = AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._api_key,
                max_retries=0,
                timeout=self._timeout,
                http_client=DefaultAsyncHttpxClient(event_hooks={"request": [_trace]}),
            )
        return self._client

    def _sorted(self, error: Any) -> Exception:
        # an endpoint may repeat the key that it refuses
        status, said = error.status_code, redact(f"{error.status_code}: {error.message}")[:500]
        if status in (401, 402, 403):
            return Stop(
                f"{self._base_url} refuses the key ({said}); check OPENAI_API_KEY and its account"
            )
        if status == 404:
            return Stop(
                f"{self._base_url} has no such model or path ({said}); "
                "check OPENAI_BASE_URL and PRESSROOM_MODEL"
            )
        after = _seconds(error.response.headers)
        if status == 429 or (status >= 500 and after is not None):
            return Overloaded(said, after)
        if status in (408, 409, 425) or status >= 500:
            return RetryLater(said)
        return RecordRejected(f"the model endpoint refuses the request ({said})")


async def _trace(request: Any) -> None:
    request.extensions["trace"] = _traced


async def _traced(event: str, _: object) -> None:
    # an endpoint does nothing before it has the body, which follows the headers after a while
    if event.endswith("send_request_body.started"):
        check_the_last_moment()


def _unsent(error: Exception) -> bool:
    """Whether no connection was ever open; the client's HTTP library changes, its names don't."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _seconds(headers: Any) -> float | None:
    """When to come again: in milliseconds as some endpoints say it, in seconds, or as a date."""
    precise, said = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        seconds = float(precise) / 1000 if precise else float(said)
    except (TypeError, ValueError):
        seconds = _seconds_to(said)
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_WAIT)


def _seconds_to(date: str | None) -> float:
    try:
        at = parsedate_to_datetime(date or "")
    except ValueError:
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()

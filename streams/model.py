"""The model client: the one place that speaks to an endpoint, and the seam where tests put another.

Any OpenAI-compatible endpoint will do: vLLM, llama.cpp, Ollama, a hosted API. Errors are sorted by
what they concern: this request (dead letter), the moment (try again), or the configuration (stop).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from schemas.errors import RecordRejected, RetryLater, Stop
from streams.prompts import Rendered

if TYPE_CHECKING:
    from openai import AsyncOpenAI

JsonSchema = dict[str, Any]

PATIENCE = 12
"""Tries of one request while the endpoint is away; with their pauses about four minutes."""

_LONGEST_PAUSE = 30.0
_LATER = 1.0


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


class Model(Protocol):
    """Anything that completes requests."""

    @property
    def name(self) -> str:
        """The model that is asked."""
        ...

    async def complete(self, request: Request) -> Completion:
        """The answer to one request.

        Raises:
            RetryLater: the endpoint is overloaded, broken or away.
            MaybePaid: the same, and it may have begun to answer.
            RecordRejected: the endpoint refuses this very request.
            Stop: the endpoint refuses every request (key, model name, address).
        """
        ...


class RetryAfter(RetryLater):
    """The endpoint said when to come again, in seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class MaybePaid(RetryLater):
    """The request may have reached the endpoint, and an answer may have been paid for."""


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
            kind = RetryLater if _unsent(error) else MaybePaid
            raise kind(f"no answer within {self._timeout:g} s") from error
        except TimeoutError as error:
            raise MaybePaid(f"no whole answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            kind = RetryLater if _unsent(error) else MaybePaid
            raise kind(f"no connection to {self._base_url}: {cause}") from error
        except openai.OpenAIError as error:
            raise MaybePaid(f"no usable answer: {error}") from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise MaybePaid(f"not an OpenAI-compatible answer: {error!r}"[:300]) from error

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
            text=answer.choices[0].message.content or "",
            model=str(answer.model or self.name),
            prompt_tokens=int(usage.prompt_tokens) if usage else 0,
            completion_tokens=int(usage.completion_tokens) if usage else 0,
        )

    def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            from openai import AsyncOpenAI

            # retries are ours alone: hidden ones would be paid for and not counted
            self._client = AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._api_key,
                max_retries=0,
                timeout=self._timeout,
            )
        return self._client

    def _sorted(self, error: Any) -> Exception:
        status, said = error.status_code, f"{error.status_code}: {error.message}"[:500]
        if status in (401, 402, 403):
            return Stop(
                f"{self._base_url} refuses the key ({said}); check OPENAI_API_KEY and its account"
            )
        if status == 404:
            return Stop(
                f"{self._base_url} has no such model or path ({said}); "
                "check OPENAI_BASE_URL and PRESSROOM_MODEL"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            after = _seconds(error.response.headers.get("retry-after"))
            return RetryLater(said) if after is None else RetryAfter(said, after)
        return RecordRejected(f"the model endpoint refuses the request ({said})")


def _unsent(error: Exception) -> bool:
    """Whether no connection was ever open; the client's HTTP library changes, its names don't."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else min(max(float(header), 0.0), 300.0)
    except ValueError:
        return None


async def patiently(
    ask: Callable[[], Awaitable[Completion]],
    tries: int = PATIENCE,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    park: bool = False,
) -> Completion:
    """Asks until the endpoint answers: capped retries, longer and longer pauses, with jitter.

    Args:
        ask: makes one request.
        tries: the most requests.
        sleep: waits so many seconds.
        park: never ask again what may have been paid for.

    Raises:
        RecordRejected: no answer in all those tries, or one that is lost and may have been paid.
        Stop: as :meth:`Model.complete`.
    """
    for attempt in range(1, tries + 1):
        try:
            return await ask()
        except RetryLater as error:
            if park and isinstance(error, MaybePaid):
                raise RecordRejected(f"maybe paid: {error}") from error
            if attempt == tries:
                raise RecordRejected(f"gave up after {tries} tries: {error}") from error
            await sleep(_pause(attempt, error))
    raise AssertionError("tries must be at least 1")


def _pause(attempt: int, error: RetryLater) -> float:
    jitter = 0.8 + 0.4 * random.random()
    backoff = min(0.5 * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * jitter
    return max(backoff, error.seconds) if isinstance(error, RetryAfter) else backoff

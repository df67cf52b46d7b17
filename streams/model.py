"""The model client: the one place that speaks to an endpoint, and the seam where tests put another.

Any OpenAI-compatible endpoint will do: vLLM, llama.cpp, Ollama, a hosted API. Errors are sorted by
what they concern: this request (dead letter), the moment (try again), or the configuration (stop).
"""

import json
import math
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from schemas.errors import RecordRejected, RetryLater, Stop
from schemas.secrets import BLOT, note_secret, note_url, redact
from streams.prompts import Rendered

if TYPE_CHECKING:
    from streams.endpoint import Answer

JsonSchema = dict[str, Any]

_LONGEST_WAIT = 300.0
_LONGEST_MESSAGE = 500
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
            Withheld: see :func:`streams.last_moment.last_moment`.
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
        from streams.endpoint import Endpoint  # its client takes a while to load

        note_secret(api_key)
        note_url(base_url)
        self.name = model
        self._base_url, self._api_key, self._timeout = base_url, api_key, timeout
        self._endpoint = Endpoint(base_url, api_key, timeout)

    async def complete(self, request: Request) -> Completion:
        answer = await self._answer(request)
        if not 200 <= answer.status < 300:
            raise self._sorted(answer)
        try:
            return self._completion(json.loads(answer.body))
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            said = f"not an OpenAI-compatible answer: {error!r}"
            raise MaybePaid(redact(said)[:_LONGEST_MESSAGE]) from error

    async def _answer(self, request: Request) -> "Answer":
        import aiohttp

        unsent = (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
        )
        try:
            return await self._endpoint.post("/chat/completions", self._content(request))
        except unsent as error:
            said = f"no connection to {self._base_url}: {error}"
            raise Unreachable(redact(said)[:_LONGEST_MESSAGE]) from error
        # of the address or the key, or of a redirect's: no model was asked
        except (ValueError, aiohttp.NonHttpUrlClientError) as error:
            said = f"no request can be made of these: {error!r}"
            raise Stop(redact(f"{said}; check OPENAI_BASE_URL and OPENAI_API_KEY")) from error
        except TimeoutError as error:
            raise MaybePaid(f"no whole answer within {self._timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            said = f"{self._base_url} broke off before it had answered: {error!r}"
            raise MaybePaid(redact(said)[:_LONGEST_MESSAGE]) from error

    def _content(self, request: Request) -> dict[str, Any]:
        schema = {"name": request.name, "schema": request.schema, "strict": True}
        return {
            "model": self.name,
            "messages": [
                {"role": "system", "content": request.prompt.system},
                {"role": "user", "content": request.prompt.user},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.prompt.temperature,
            "seed": request.seed,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _completion(self, answer: Any) -> Completion:
        usage = answer.get("usage") or {}
        return Completion(
            text=self._without_key(answer["choices"][0]["message"].get("content") or ""),
            model=str(answer.get("model") or self.name),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )

    def _without_key(self, text: str) -> str:
        # a completion is kept for good; a short key may well be a word that belongs there
        return text.replace(self._api_key, BLOT) if len(self._api_key) >= _A_REAL_KEY else text

    def _sorted(self, answer: "Answer") -> Exception:
        # an endpoint may repeat the key that it refuses
        status = answer.status
        said = redact(f"{status}: {_message_in(answer.body)}")[:_LONGEST_MESSAGE]
        if status in (401, 402, 403):
            return Stop(
                f"{self._base_url} refuses the key ({said}); check OPENAI_API_KEY and its account"
            )
        if status == 404:
            return Stop(
                f"{self._base_url} has no such model or path ({said}); "
                "check OPENAI_BASE_URL and PRESSROOM_MODEL"
            )
        after = _seconds(answer.headers)
        if status == 429 or (status >= 500 and after is not None):
            return Overloaded(said, after)
        if status in (408, 409, 425) or status >= 500:
            return RetryLater(said)
        return RecordRejected(f"the model endpoint refuses the request ({said})")


def _message_in(body: bytes) -> str:
    """What an endpoint says is wrong, in one of the ways in which they say it."""
    text = body.decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return said if isinstance(said, str) else text


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

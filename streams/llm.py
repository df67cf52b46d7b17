"""What a stage calls: ``await llm(Summary, text=document.text)``.

The output's JSON schema comes from the record's Avro schema, the endpoint decodes under it, and what
comes back is checked again here, since an endpoint may ignore the schema.
"""

import json
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar, cast

from schemas.codec import codec_for
from schemas.errors import RecordRejected, ReplyRejected
from schemas.message import Call
from schemas.record import JsonSchema, binding_of, json_schema
from streams.calls import Begin, Caller, nothing
from streams.flow import Pace
from streams.model import Completion, Request
from streams.prompts import Prompt

R = TypeVar("R")

REPLIES = 3
"""How many replies are asked for when they don't fit the schema."""


Ask = Callable[[Begin], Awaitable[Completion]]
"""Gets an answer; awaits what it is given just before each request is made."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a call asks: the id of everything that decides the answer, the prompt, the model."""

    call_id: str
    prompt: str
    model: str


Keep = Callable[[Question, Ask], Awaitable[Completion]]
"""Gives the answer to a question: one that was kept, or the one it asks for and keeps."""


async def keep_nothing(_: Question, ask: Ask) -> Completion:
    """Asks every time."""
    return await ask(nothing)


class Llm:
    """The model as one stage sees it while it works on one record."""

    def __init__(
        self,
        caller: Caller,
        prompt: Callable[[str | None], Prompt],
        stage: str,
        keep: Keep = keep_nothing,
        *,
        pace: Pace | None = None,
        park: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            caller: asks the model.
            prompt: gives the prompt of a name, or the stage's own for None.
            stage: ``pipeline/stage``.
            keep: where completions are kept.
            pace: how fast its group may ask.
            park: never ask again what may have been paid for.
            seed: of the first reply; questions with another one are other questions.
        """
        self._caller, self._prompt, self._stage = caller, prompt, stage
        self._keep, self._pace, self._park, self._seed = keep, pace, park, seed
        self.calls: list[Call] = []

    async def __call__(
        self, reply: type[R], /, prompt: str | None = None, **variables: object
    ) -> R:
        """Asks the model to fill a record.

        Args:
            reply: the record class to fill; every field is the model's to write.
            prompt: ``name@version`` of another prompt than the stage's own.
            variables: what the prompt file fills in.

        Returns:
            a ``reply`` that fits its Avro schema and its bounds.

        Raises:
            ReplyRejected: no reply fitted, in three tries.
            RecordRejected: the endpoint refused, or stayed away too long.
        """
        chosen = self._prompt(prompt)
        rendered = chosen.render(variables)
        schema = _schema_for(cast(Hashable, reply))
        number = len(self.calls)
        self.calls.append(Call("", self._stage, chosen.name, "", 0, 0, 0))
        problem = ""
        for seed in range(self._seed, self._seed + REPLIES):
            request = Request(rendered, reply.__name__, schema, longest(schema), seed)
            completion = await self._complete(number, request)
            self._count(number, completion)
            try:
                return parse_reply(reply, schema, completion.text)
            except ReplyRejected as error:
                problem = str(error)
        raise ReplyRejected(f"{REPLIES} replies to {chosen.name} did not fit; the last: {problem}")

    async def _complete(self, number: int, request: Request) -> Completion:
        call = self.calls[number]
        asked = call_id(self._stage, call.prompt, self._caller.name, request)
        if not call.id:
            self.calls[number] = replace(call, id=asked)
        question = Question(asked, call.prompt, self._caller.name)

        async def ask(begin: Begin) -> Completion:
            return await self._caller.complete(request, begin, self._pace, self._park)

        return await self._keep(question, ask)

    def _count(self, number: int, completion: Completion) -> None:
        call = self.calls[number]
        self.calls[number] = Call(
            call.id, call.stage, call.prompt, completion.model,
            call.prompt_tokens + completion.prompt_tokens,
            call.completion_tokens + completion.completion_tokens,
            call.attempts + 1,
            call.reused + completion.reused,
        )  # fmt: skip


def call_id(stage: str, prompt: str, model: str, request: Request) -> str:
    """The id of a call: equal exactly when everything that decides the answer is equal.

    Args:
        stage: ``pipeline/stage``; only the stage counts, so that pipelines share their answers.
        prompt: ``name@version``.
        model: whom is asked.
        request: what.

    Returns:
        32 hexadecimal digits.
    """
    text = request.prompt
    decides = [
        stage.rpartition("/")[2], prompt, text.system, text.user, model, text.temperature,
        request.name, request.schema, request.max_tokens, request.seed,
    ]  # fmt: skip
    content = json.dumps(decides, sort_keys=True, separators=(",", ":")).encode()
    return blake2b(content, digest_size=16).hexdigest()


@cache
def _schema_for(reply: Hashable) -> JsonSchema:
    return json_schema(binding_of(cast(type, reply)).expanded)


def longest(schema: JsonSchema) -> int:
    """The most tokens a reply under a schema can take, in any script.

    It guards against endpoints that ignore the schema; under the schema a reply ends by itself.
    """
    if "anyOf" in schema:
        return longest(schema["anyOf"][1])
    match schema["type"]:
        case "object":
            return 8 + sum(8 + longest(s) for s in schema["properties"].values())
        case "array":
            return 4 + int(schema["maxItems"]) * longest(schema["items"])
        case "string" if "enum" in schema:
            return max(len(symbol) for symbol in schema["enum"])
        case "string":
            return 4 + 3 * int(schema["maxLength"])
    return 24


def parse_reply(reply: type[R], schema: JsonSchema, text: str) -> R:
    """The record in a model's reply.

    Raises:
        ReplyRejected: no JSON object, or one that breaks the schema or its bounds.
    """
    data = _json_object(text)
    _check(schema, data, reply.__name__)
    record = cast(R, binding_of(reply).from_avro(cast(dict[str, Any], data)))
    try:
        codec_for(reply).encode(record)
    except RecordRejected as error:
        raise ReplyRejected(str(error)) from error
    return record


def _json_object(text: str) -> object:
    # an endpoint that ignores the schema often wraps the object in prose or a code fence
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise ReplyRejected(f"no JSON object in {text[:80]!r}")
    try:
        return json.loads(text[begin : end + 1], parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ReplyRejected(f"{error} in {text[begin : begin + 80]!r}") from None


_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _check(schema: JsonSchema, value: object, where: str) -> None:
    """Checks exactly what :func:`schemas.record.json_schema` can say."""
    if "anyOf" in schema:
        if value is not None:
            _check(schema["anyOf"][1], value, where)
        return
    if type(value) not in _KINDS[schema["type"]]:
        raise ReplyRejected(f"{where} is {type(value).__name__}, not {schema['type']}")
    match value:
        case dict():
            _check_object(schema, value, where)
        case list():
            _check_length(value, schema["maxItems"], where)
            for item in value:
                _check(schema["items"], item, f"{where}[]")
        case str():
            _check_length(value, schema.get("maxLength"), where)
            if "enum" in schema and value not in schema["enum"]:
                known = ", ".join(schema["enum"])
                raise ReplyRejected(f"{where} is {value[:40]!r}, none of {known}")
        case float() if not math.isfinite(value):
            raise ReplyRejected(f"{where} is no finite number")


def _check_object(schema: JsonSchema, value: dict[str, object], where: str) -> None:
    missing = [name for name in schema["required"] if name not in value]
    extra = [name for name in value if name not in schema["properties"]]
    if missing or extra:
        raise ReplyRejected(f"{where} lacks {missing} and has unknown {extra[:5]}")
    for name, item in value.items():
        _check(schema["properties"][name], item, f"{where}.{name}")


def _check_length(value: str | list[object], most: int | None, where: str) -> None:
    if most is not None and len(value) > most:
        raise ReplyRejected(f"{where} has length {len(value)}, more than {most}")

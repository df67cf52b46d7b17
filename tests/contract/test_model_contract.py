"""What every model must do, whether it answers from a script or over HTTP."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import pytest

from schemas.errors import RecordRejected, RetryLater, Stop
from streams.memory import ScriptedModel
from streams.model import Completion, Model, OpenAIModel, Request
from streams.prompts import Rendered

REQUEST = Request(Rendered("You edit.", "Say hi.", 0.2), "Headline", {"type": "object"}, 50)


class Endpoint(Protocol):
    """A model that can be told how to behave."""

    def answers(self, text: str) -> Model: ...
    def is_overloaded(self) -> Model: ...
    def refuses_the_request(self) -> Model: ...
    def refuses_the_key(self) -> Model: ...


class Scripted:
    def answers(self, text: str) -> Model:
        return ScriptedModel({"Headline": text})

    def is_overloaded(self) -> Model:
        return ScriptedModel({"Headline": RetryLater("busy")})

    def refuses_the_request(self) -> Model:
        return ScriptedModel({"Headline": RecordRejected("too long")})

    def refuses_the_key(self) -> Model:
        return ScriptedModel({"Headline": Stop("bad key")})


class OverHttp:
    """The real client against a server on this machine that plays an endpoint."""

    def __init__(self) -> None:
        self._status, self._body = 200, b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(outer._status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(outer._body)))
                self.end_headers()
                self.wfile.write(outer._body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _model(self, status: int, body: dict[str, Any]) -> Model:
        self._status, self._body = status, json.dumps(body).encode()
        url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return OpenAIModel(url, "key", "scripted", timeout=30)

    def answers(self, text: str) -> Model:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted"}
        return self._model(200, answer | {"choices": [choice], "usage": usage})

    def is_overloaded(self) -> Model:
        return self._model(429, {"error": {"message": "busy"}})

    def refuses_the_request(self) -> Model:
        return self._model(400, {"error": {"message": "too long"}})

    def refuses_the_key(self) -> Model:
        return self._model(401, {"error": {"message": "bad key"}})


@pytest.fixture(params=[Scripted, OverHttp])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    make: Callable[[], Endpoint] = request.param
    made = make()
    yield made
    if isinstance(made, OverHttp):
        made.close()


def complete(model: Model) -> Completion:
    return asyncio.run(model.complete(REQUEST))


def test_it_answers_with_text_model_and_tokens(endpoint: Endpoint) -> None:
    completion = complete(endpoint.answers('{"text": "hi"}'))
    assert completion == Completion('{"text": "hi"}', "scripted", 4, 2)


def test_it_passes_on_a_reply_that_does_not_fit(endpoint: Endpoint) -> None:
    assert complete(endpoint.answers("I'd rather not 🦆")).text == "I'd rather not 🦆"


def test_it_answers_requests_at_once(endpoint: Endpoint) -> None:
    async def many(model: Model) -> list[Completion]:
        return await asyncio.gather(*(model.complete(REQUEST) for _ in range(5)))

    assert [c.text for c in asyncio.run(many(endpoint.answers("hi you")))] == ["hi you"] * 5


def test_overloaded_means_retry_later(endpoint: Endpoint) -> None:
    with pytest.raises(RetryLater, match="busy"):
        complete(endpoint.is_overloaded())


def test_a_refused_request_rejects_the_record(endpoint: Endpoint) -> None:
    with pytest.raises(RecordRejected, match="too long"):
        complete(endpoint.refuses_the_request())


def test_a_refused_key_stops(endpoint: Endpoint) -> None:
    with pytest.raises(Stop, match="bad key"):
        complete(endpoint.refuses_the_key())

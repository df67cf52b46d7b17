"""The model client against a loopback server that plays every kind of endpoint."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from schemas.errors import RecordRejected, RetryLater, Stop
from schemas.secrets import BLOT, redact
from streams.last_moment import Withheld, last_moment
from streams.model import (
    Completion,
    MaybePaid,
    OpenAIModel,
    Overloaded,
    Request,
    Unreachable,
)
from streams.prompts import Rendered

REQUEST = Request(
    Rendered("You edit.", "Say hi.", 0.3), "Headline", {"type": "object"}, max_tokens=50, seed=2
)
ANSWER: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "small-v2",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def say(
    status: int, body: object, content_type: str = "application/json", **headers: str
) -> Behaviour:
    """Answers so; text is sent as it is, anything else as JSON."""
    encoded = (body if isinstance(body, str) else json.dumps(body)).encode()

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-type", content_type)
        handler.send_header("content-length", str(len(encoded)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(encoded)

    return behave


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Resets the connection instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def close_early(handler: BaseHTTPRequestHandler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"id": ')
    handler.close_connection = True


class Fake:
    """An endpoint that behaves as told and keeps what it was asked."""

    def __init__(self) -> None:
        self.behave: Behaviour = say(200, ANSWER)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.connections: set[tuple[str, int]] = set()
        self.release = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections stay open

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.connections.add(self.client_address)
                fake.asked.append(
                    (self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                )
                fake.behave(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def complete(self, timeout: float = 30.0) -> Completion:
        return asyncio.run(OpenAIModel(self.url, "secret", "small", timeout).complete(REQUEST))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Fake()
    yield made
    made.close()


# --- what is asked ---------------------------------------------------------------------------


def test_the_request_is_chat_completions_under_a_json_schema(fake: Fake) -> None:
    fake.complete()
    ((path, headers, body),) = fake.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    assert body == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "You edit."},
            {"role": "user", "content": "Say hi."},
        ],
        "max_tokens": 50,
        "temperature": 0.3,
        "seed": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "Headline", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_the_answer_has_text_the_server_s_model_and_tokens(fake: Fake) -> None:
    assert fake.complete() == Completion("hi", "small-v2", 7, 3)


def test_one_client_serves_many_requests(fake: Fake) -> None:
    async def many() -> list[Completion]:
        model = OpenAIModel(fake.url, "secret", "small")
        return await asyncio.gather(*(model.complete(REQUEST) for _ in range(10)))

    assert [c.text for c in asyncio.run(many())] == ["hi"] * 10
    assert len(fake.asked) == 10


def test_a_request_may_be_withheld_when_it_is_ready(fake: Fake) -> None:
    def withhold() -> None:
        raise Withheld

    async def first_withheld_then_not() -> list[int]:
        model = OpenAIModel(fake.url, "secret", "small")
        with last_moment(withhold), pytest.raises(Withheld):
            await model.complete(REQUEST)
        before = len(fake.asked)
        with last_moment(lambda: None):
            await model.complete(REQUEST)
        return [before, len(fake.asked)]

    assert asyncio.run(first_withheld_then_not()) == [0, 1]


def test_nothing_runs_between_the_last_moment_and_the_sending(fake: Fake) -> None:
    """A process may be stopped anywhere; what it has checked must have left by then."""
    arrived: list[int] = []

    def stand_still() -> None:
        until = time.monotonic() + 5
        while not fake.asked and time.monotonic() < until:
            time.sleep(0.01)
        arrived.append(len(fake.asked))

    async def ask() -> None:
        with last_moment(lambda: _ignore(asyncio.get_running_loop().call_soon(stand_still))):
            await OpenAIModel(fake.url, "secret", "small").complete(REQUEST)

    asyncio.run(ask())
    assert arrived == [1]


def _ignore(_: object) -> None:
    return None


def test_missing_usage_and_model_are_made_good(fake: Fake) -> None:
    fake.behave = say(200, {k: v for k, v in ANSWER.items() if k not in ("usage", "model")})
    assert fake.complete() == Completion("hi", "small", 0, 0)


def test_no_content_is_an_empty_text(fake: Fake) -> None:
    message = {"role": "assistant", "content": None}
    fake.behave = say(200, ANSWER | {"choices": [{"index": 0, "message": message}]})
    assert fake.complete().text == ""


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_an_overloaded_or_broken_endpoint_means_retry_later(fake: Fake, status: int) -> None:
    fake.behave = say(status, {"error": {"message": "busy"}})
    with pytest.raises(RetryLater, match=f"{status}: .*busy") as caught:
        fake.complete()
    assert isinstance(caught.value, Overloaded) == (status == 429)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("86400", 300.0), ("inf", 300.0)]
)
def test_retry_after_is_taken_up_within_reason(
    fake: Fake, status: int, header: str, seconds: float
) -> None:
    fake.behave = say(status, {"error": {"message": "busy"}}, retry_after=header)
    with pytest.raises(Overloaded) as caught:
        fake.complete()
    assert caught.value.seconds == seconds


def test_retry_after_may_be_a_date_or_in_milliseconds(fake: Fake) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    fake.behave = say(429, {}, retry_after=date)
    with pytest.raises(Overloaded) as caught:
        fake.complete()
    assert 90 < (caught.value.seconds or 0) <= 100
    fake.behave = say(429, {}, retry_after="2", retry_after_ms="1500")
    with pytest.raises(Overloaded) as caught:
        fake.complete()
    assert caught.value.seconds == 1.5


@pytest.mark.parametrize("header", ["soon", "", "nan"])
def test_a_retry_after_that_is_neither_number_nor_date_is_ignored(fake: Fake, header: str) -> None:
    fake.behave = say(429, {"error": {"message": "busy"}}, retry_after=header)
    with pytest.raises(Overloaded) as caught:
        fake.complete()
    assert caught.value.seconds is None


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_rejects_the_record(fake: Fake, status: int) -> None:
    fake.behave = say(status, {"error": {"message": "context too long"}})
    with pytest.raises(RecordRejected, match=f"refuses the request .*{status}: .*context too long"):
        fake.complete()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_and_names_the_setting(fake: Fake, status: int) -> None:
    fake.behave = say(status, {"error": {"message": "bad key"}})
    with pytest.raises(Stop, match=r"refuses the key .*check OPENAI_API_KEY"):
        fake.complete()


def test_an_unknown_model_or_path_stops_and_names_the_settings(fake: Fake) -> None:
    fake.behave = say(404, {"error": {"message": "no model small"}})
    with pytest.raises(Stop, match=r"no model small.*check OPENAI_BASE_URL and PRESSROOM_MODEL"):
        fake.complete()


def test_the_key_is_never_in_a_message(fake: Fake) -> None:
    fake.behave = say(401, {"error": {"message": "bad key"}})
    with pytest.raises(Stop) as caught:
        fake.complete()
    assert "secret" not in str(caught.value)


def test_a_long_refusal_is_cut(fake: Fake) -> None:
    fake.behave = say(400, {"error": {"message": "x" * 100_000}})
    with pytest.raises(RecordRejected) as caught:
        fake.complete()
    assert len(str(caught.value)) < 1000


ALIEN: dict[str, object] = {
    "no choices": ANSWER | {"choices": []},
    "null choices": ANSWER | {"choices": None},
    "an error with status 200": {"error": {"message": "busy"}},
    "an empty object": {},
    "a list": [],
    "null": None,
    "a text": "hi",
    "nothing": "",
    "half of it": json.dumps(ANSWER)[:60],
    "no message": ANSWER | {"choices": [{"index": 0}]},
    "a null message": ANSWER | {"choices": [{"index": 0, "message": None}]},
    "tokens in words": ANSWER | {"usage": {"prompt_tokens": "many", "completion_tokens": "few"}},
}


@pytest.mark.parametrize("body", ALIEN.values(), ids=ALIEN.keys())
def test_an_alien_answer_means_retry_later(fake: Fake, body: object) -> None:
    fake.behave = say(200, body)
    with pytest.raises(RetryLater):
        fake.complete()


@pytest.mark.parametrize("status", [200, 502])
def test_html_instead_of_json_means_retry_later(fake: Fake, status: int) -> None:
    fake.behave = say(status, "<html><h1>Bad gateway</h1></html>", "text/html")
    with pytest.raises(RetryLater):
        fake.complete()


def test_a_reset_connection_means_retry_later(fake: Fake) -> None:
    fake.behave = reset
    with pytest.raises(RetryLater, match=f"{fake.url} broke off"):
        fake.complete()


def test_an_answer_that_breaks_off_means_retry_later(fake: Fake) -> None:
    fake.behave = close_early
    with pytest.raises(RetryLater):
        fake.complete()


def test_no_server_means_retry_later() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(RetryLater, match="no connection to"):
            asyncio.run(OpenAIModel(url, "key", "small").complete(REQUEST))


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1/v1"])
def test_an_address_that_is_none_stops_and_names_the_setting(url: str) -> None:
    with pytest.raises(Stop, match="check OPENAI_BASE_URL"):
        asyncio.run(OpenAIModel(url, "key", "small").complete(REQUEST))


def test_a_key_that_fits_no_header_stops_and_names_the_setting(fake: Fake) -> None:
    with pytest.raises(Stop, match="OPENAI_API_KEY"):
        asyncio.run(OpenAIModel(fake.url, "secret\nkey", "small").complete(REQUEST))
    assert not fake.asked


def test_whether_anything_was_sent_is_told_apart(fake: Fake) -> None:
    fake.behave = reset
    with pytest.raises(MaybePaid):
        fake.complete()
    fake.close()
    with pytest.raises(Unreachable):
        fake.complete()


def test_an_endpoint_that_speaks_no_tls_is_out_of_reach(fake: Fake) -> None:
    url = fake.url.replace("http://", "https://")
    with pytest.raises(Unreachable, match="no connection to"):
        asyncio.run(OpenAIModel(url, "key", "small").complete(REQUEST))


def test_the_environment_names_a_ca_of_one_s_own(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    model = OpenAIModel(fake.url.replace("http://", "https://"), "key", "small")
    with pytest.raises(Unreachable, match="certificate"):
        asyncio.run(model.complete(REQUEST))
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert asyncio.run(model.complete(REQUEST)).text == "hi"


def test_a_connection_is_used_again(fake: Fake) -> None:
    async def twice() -> None:
        model = OpenAIModel(fake.url, "secret", "small")
        for _ in range(2):
            await model.complete(REQUEST)

    asyncio.run(twice())
    assert (len(fake.asked), len(fake.connections)) == (2, 1)


def test_a_connection_that_the_endpoint_closed_is_not_used_again(fake: Fake) -> None:
    def answer_and_close(handler: BaseHTTPRequestHandler) -> None:
        say(200, ANSWER)(handler)
        handler.close_connection = True

    async def twice() -> list[str]:
        model = OpenAIModel(fake.url, "secret", "small")
        first = await model.complete(REQUEST)
        await asyncio.sleep(0.1)
        return [first.text, (await model.complete(REQUEST)).text]

    fake.behave = answer_and_close
    assert asyncio.run(twice()) == ["hi", "hi"]
    assert len(fake.connections) == 2


def test_a_redirect_is_followed(fake: Fake) -> None:
    def move(handler: BaseHTTPRequestHandler) -> None:
        fake.behave = say(200, ANSWER)
        say(307, {}, location=f"{fake.url}/elsewhere")(handler)

    fake.behave = move
    assert fake.complete().text == "hi"
    assert [path for path, *_ in fake.asked] == ["/v1/chat/completions", "/v1/elsewhere"]


def test_the_environment_s_proxy_is_asked(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", fake.url.removesuffix("/v1").replace("//", "//me:password@"))
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    asyncio.run(OpenAIModel("http://model.test/v1", "secret", "small").complete(REQUEST))
    ((path, headers, _),) = fake.asked
    assert path == "http://model.test/v1/chat/completions"
    assert headers["proxy-authorization"] == "Basic bWU6cGFzc3dvcmQ="
    assert redact("me:password, password") == f"{BLOT}, {BLOT}"


def test_a_user_and_password_in_the_address_stand_for_the_key(fake: Fake) -> None:
    url = fake.url.replace("//", "//me:word@")
    asyncio.run(OpenAIModel(url, "secret", "small").complete(REQUEST))
    ((_, headers, _),) = fake.asked
    assert headers["authorization"] == "Basic bWU6d29yZA=="


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "busy"}},
        {"error": "busy"},
        {"message": "busy"},
        {"detail": "busy"},
        "busy",
    ],
)
def test_what_an_endpoint_says_is_found_where_it_says_it(fake: Fake, body: object) -> None:
    fake.behave = say(503, body)
    with pytest.raises(RetryLater, match=r"^503: busy$"):
        fake.complete()


def test_a_model_serves_one_event_loop_after_another(fake: Fake) -> None:
    model = OpenAIModel(fake.url, "secret", "small")
    texts = [asyncio.run(model.complete(REQUEST)).text for _ in range(2)]
    assert texts == ["hi", "hi"]


def test_no_answer_in_time_means_retry_later(fake: Fake) -> None:
    def hang(_: BaseHTTPRequestHandler) -> None:
        fake.release.wait(30)

    fake.behave = hang
    with pytest.raises(RetryLater, match=r"no (whole )?answer within 0\.1 s"):
        fake.complete(timeout=0.1)


@pytest.mark.parametrize(
    "behave",
    [
        say(200, ANSWER),
        say(429, {"error": {"message": "busy"}}, retry_after="0"),
        say(500, {"error": {"message": "broken"}}),
        say(503, {}, x_should_retry="true"),
        say(408, {}),
        say(409, {}),
        say(200, "<html>", "text/html"),
        say(200, ANSWER | {"choices": []}),
        close_early,
        reset,
    ],
)
def test_one_request_goes_out_for_each_completion(fake: Fake, behave: Behaviour) -> None:
    fake.behave = behave
    with contextlib.suppress(RetryLater):
        fake.complete()
    assert len(fake.asked) == 1

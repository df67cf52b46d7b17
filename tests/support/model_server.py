"""A model server for faults: it speaks OpenAI's protocol, bills every call, and misbehaves to order."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.net import reset
from tests.support.oracle import Bill

Answer = Callable[[dict[str, Any]], str]
Refusal = tuple[int, dict[str, str]]
"""A status and headers."""


class Mishap(Enum):
    """What goes wrong with a call that is not refused."""

    HANG = "no answer, ever"
    RESET = "the connection is reset when the answer is billed"
    MALFORMED = "a body that is no JSON"
    ENDLESS = "a body that never ends"
    EMPTY = "an empty completion"
    PROSE = "a completion that is no JSON"
    LONG = "a completion longer than its schema allows"


_TEXTS = {
    Mishap.EMPTY: "",
    Mishap.PROSE: "I can't.",
    Mishap.LONG: json.dumps({"text": "x" * 99_999}),
}


@dataclass
class ModelServer:
    """Serves on a free port until closed.

    Args:
        answer: the reply's text, given the request.
        seconds: how long a call takes.
        before: called before every answer; it may wait.
        fault: asked before every call, with its number; what to refuse it with, or None.
        spoil: the same, with the user message and how often it came before.
        host: the address to listen at.
    """

    answer: Answer
    seconds: float = 0.0
    before: Callable[[], object] = lambda: None
    fault: Callable[[int], Refusal | None] = lambda _: None
    spoil: Callable[[str, int], Refusal | Mishap | None] = lambda *_: None
    host: str = "127.0.0.1"
    account: list[Bill] = field(default_factory=list)
    """Every call that was answered, and so would be paid for."""
    requests: int = 0
    came: Counter[str] = field(default_factory=Counter)
    """How often each user message came."""
    spoiled: int = 0
    """How many of the bills are for answers that nobody could use."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server((self.host, 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._server.server_address[1]}/v1"

    @property
    def bills(self) -> list[str]:
        """The user message of every call that was answered."""
        return [bill.question for bill in self.account]

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(
        self, request: dict[str, Any]
    ) -> tuple[int, dict[str, str], dict[str, Any]] | Mishap:
        """Status, headers and body of the response, or what happens instead of one."""
        asked, question = time.time(), request["messages"][-1]["content"]
        with self._lock:
            self.requests += 1
            fault = self.fault(self.requests) or self.spoil(question, self.came[question])
            self.came[question] += 1
        if isinstance(fault, tuple):
            return fault[0], fault[1], {"error": {"message": "refused to order"}}
        if fault is Mishap.HANG:
            return fault
        self.before()
        time.sleep(self.seconds)
        text = self.answer(request) if fault is None else _TEXTS.get(fault)
        with self._lock:
            self.account.append(Bill(question, int(request.get("seed", 0)), asked))
            self.spoiled += fault is not None
        if text is None:
            assert fault is not None
            return fault
        message = {"role": "assistant", "content": text}
        return 200, {}, {
            "id": "1", "object": "chat.completion", "created": 0, "model": "fake",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a busy machine accepts late

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that was killed is nothing to tell
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    owner: ModelServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        request = self.rfile.read(length)
        if len(request) < length:  # the client was killed while it asked
            self.close_connection = True
            return
        response = self.owner.handle(json.loads(request))
        try:
            if isinstance(response, Mishap):
                self._fail(response)
            else:
                status, headers, body = response
                self._send(status, json.dumps(body).encode(), headers)
        except OSError:
            self.close_connection = True  # the client was killed, or gave up

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, mishap: Mishap) -> None:
        if mishap is Mishap.MALFORMED:
            self._send(200, b'{"choices": [{"mess', {})
            return
        self.close_connection = True
        if mishap is Mishap.HANG:
            self.owner.closed.wait()
        if mishap is Mishap.ENDLESS:
            self._drip()
        reset(self.connection)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(1 << 30))
        self.end_headers()
        while not self.owner.closed.wait(0.05):
            self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        pass

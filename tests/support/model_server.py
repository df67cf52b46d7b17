"""A model server for faults: it speaks OpenAI's protocol, bills every call, and misbehaves to order."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]


@dataclass
class ModelServer:
    """Serves on a loopback port until closed.

    Args:
        answer: the reply's text, given the request.
        seconds: how long a call takes.
        before: called before every answer; it may wait.
        fault: asked before every call; a status and headers to refuse it with, or None.
    """

    answer: Answer
    seconds: float = 0.0
    before: Callable[[], object] = lambda: None
    fault: Callable[[int], tuple[int, dict[str, str]] | None] = lambda _: None
    bills: list[str] = field(default_factory=list)
    """The user message of every call that was answered, and so would be paid for."""
    requests: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and body of the response."""
        with self._lock:
            self.requests += 1
            refused = self.fault(self.requests)
        if refused is not None:
            return refused[0], refused[1], {"error": {"message": "refused to order"}}
        self.before()
        time.sleep(self.seconds)
        text = self.answer(request)
        with self._lock:
            self.bills.append(request["messages"][-1]["content"])
        message = {"role": "assistant", "content": text}
        return 200, {}, {
            "id": "1", "object": "chat.completion", "created": 0, "model": "fake",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                status, headers, body = owner.handle(json.loads(self.rfile.read(length)))
                encoded = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    for name, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(encoded)))
                    self.end_headers()
                    self.wfile.write(encoded)
                except OSError:
                    pass  # the client was killed meanwhile

            def log_message(self, *_: object) -> None:
                pass

        return Handler

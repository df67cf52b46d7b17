"""A model that takes its time: OpenAI's protocol, a length for every question, and a bill."""

import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER = json.dumps({"text": "done"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A killed client resets its connections: nothing to print."""


class SlowModel:
    """Serves on a loopback port. A question always takes equally long, however often it is asked.

    The lengths are drawn from an exponential distribution. A question is paid for when it arrives:
    providers bill what they generate, whoever is still there to read it.
    """

    def __init__(self, mean: float) -> None:
        self._mean = mean
        self._lock = threading.Lock()
        self.paid: list[tuple[float, str]] = []
        """When each question arrived, and what it was."""
        self.answered: list[tuple[float, str]] = []
        """When each answer was sent whole."""
        self._server = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def clear(self) -> None:
        """A new bill."""
        with self._lock:
            self.paid, self.answered = [], []

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def seconds(self, question: str) -> float:
        """How long a question takes."""
        return -self._mean * math.log(1 - random.Random(question).random())

    def ideal(self, places: int) -> float:
        """Seconds of the calls alone, in the order they came, each begun when a place is free."""
        free_at = [0.0] * places
        for _, question in self.paid:
            first = free_at.index(min(free_at))
            free_at[first] += self.seconds(question)
        return max(free_at)

    def _answer(self, question: str) -> dict[str, Any]:
        with self._lock:
            paid = self.paid
            paid.append((time.time(), question))
        time.sleep(self.seconds(question))
        message = {"role": "assistant", "content": _ANSWER}
        return {
            "id": "1", "object": "chat.completion", "created": 0, "model": "slow",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                try:
                    request = json.loads(self.rfile.read(length))
                except (ValueError, OSError):
                    return  # the client was killed while it asked
                question = str(request["messages"][-1]["content"]).strip()
                answered = owner.answered
                body = json.dumps(owner._answer(question)).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    self.wfile.flush()
                except OSError:
                    return  # the client was killed meanwhile
                with owner._lock:
                    answered.append((time.time(), question))

            def log_message(self, *_: object) -> None:
                pass

        return Handler

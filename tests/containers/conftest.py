"""The model server that projects of Compose use."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from tests.support.model_server import ModelServer


def sentence(request: dict[str, Any]) -> str:
    """An answer under the request's schema, which differs from question to question."""
    name = sha256(request["messages"][-1]["content"].encode()).hexdigest()[:12]
    return json.dumps(
        _instance(request["response_format"]["json_schema"]["schema"], f"About {name}.")
    )


def _instance(schema: dict[str, Any], text: str) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {name: _instance(part, text) for name, part in schema["properties"].items()}
        case "array":
            return [_instance(schema["items"], text)]
    return text


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    """A fast model server of ours, which bills; containers reach it on the host."""
    server = ModelServer(sentence, seconds=0.3, host="0.0.0.0")
    yield server
    server.close()

"""An embedded model: llama.cpp serving SmolLM2 at an OpenAI-compatible address."""

import http.client
import sys
from pathlib import Path

from streams.local import model_server
from streams.local.ports import HOST
from streams.local.service import Service
from streams.local.wheel import MODEL_NAME
from streams.local.wheel import model as weights


class Model(Service):
    """The model server of a home."""

    name = "model"
    title = f"model {MODEL_NAME}"

    @property
    def mark(self) -> str:
        return f"--home={self.home}"

    def environment(self) -> dict[str, str]:
        # OpenMP's threads wait for each other by spinning, and take the time slices of those they
        # wait for as soon as Kafka, a worker or anything else wants a core too. Measured on two
        # cores: beside one busy process 39 s instead of 217, alone 34 s instead of 26.
        return {"OMP_WAIT_POLICY": "passive"}

    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        (file,) = weights().files(cache)
        program = [sys.executable, "-P", str(Path(model_server.__file__)), self.mark]
        program += [f"--weights={file}", f"--name={MODEL_NAME}"]
        return [*program, f"{self.ports_option}{ports[0]}"]

    def answers(self, ports: tuple[int, ...]) -> bool:
        connection = http.client.HTTPConnection(HOST, ports[0], timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

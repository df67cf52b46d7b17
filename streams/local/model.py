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
        # OpenMP's threads wait for each other by spinning. On a machine whose cores are also used
        # by others (Kafka, the workers) a spinning thread takes the time slice of the one it waits
        # for: measured, up to thirty times slower.
        return {"OMP_WAIT_POLICY": "passive"}

    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        (file,) = weights().files(cache)
        program = [sys.executable, "-P", str(Path(model_server.__file__)), self.mark]
        return [*program, f"--weights={file}", f"--name={MODEL_NAME}", f"--port={ports[0]}"]

    def answers(self, ports: tuple[int, ...]) -> bool:
        connection = http.client.HTTPConnection(HOST, ports[0], timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

"""What the programs are told, and how a value is decoded."""

import json
import sys
from functools import cached_property
from io import BytesIO
from typing import Any

import fastavro


class Source:
    """A topic and its contract, from the command line: ``SERVERS TOPIC CONTRACT``."""

    def __init__(self) -> None:
        self.servers, self.topic, self._contract = sys.argv[1:]

    @cached_property
    def _schema(self) -> Any:
        return fastavro.schema.load_schema(self._contract)

    def decode(self, value: bytes) -> Any:
        """What stands behind the header: that of single-object encoding, or of the wire format."""
        header = 10 if value[:2] == b"\xc3\x01" else 5
        return fastavro.schemaless_reader(BytesIO(value[header:]), self._schema, None)


def show(record: Any) -> None:
    """Prints a record as a line of JSON."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()

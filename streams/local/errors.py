"""What goes wrong with the embedded stack."""

from schemas.errors import PressroomError


class LocalError(PressroomError):
    """The embedded Kafka or model can't be had. The message is one line that says what to do."""


class Interrupted(Exception):
    """Another part of the same start failed or was interrupted: give up quietly."""

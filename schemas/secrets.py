"""Secrets: what was noted here is blotted out wherever text leaves the program.

That is: log lines, error lines, dead letters, and completions, since an endpoint may repeat the key it
was sent.
"""

import os
import re
from base64 import b64encode
from urllib.parse import unquote, urlsplit

BLOT = "[secret]"
"""What stands in a secret's place."""

_SHORTEST = 6
_OURS = ("PRESSROOM_", "OPENAI_", "SCHEMA_REGISTRY_")
_NAMED = re.compile(
    r"password|secret|token|credential|jaas|oauthbearer\.config|user.?info|key\.pem|(?<![a-z])key$",
    re.I,
)
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def is_secret(name: str) -> bool:
    """Whether a setting of this name, of Pressroom or of a client, holds a secret."""
    return _NAMED.search(name) is not None


def note_secret(value: str) -> None:
    """Keeps a value out of all that is shown; ``user:password`` also by its parts and encodings."""
    global _pattern
    forms = {value}
    _, colon, password = value.partition(":")
    if colon:
        forms |= {password, unquote(password), b64encode(value.encode()).decode()}
    fresh = {f for f in forms if len(f) >= _SHORTEST and f != "none"} - _known
    if fresh:
        _known.update(fresh)
        longest_first = sorted(_known, key=len, reverse=True)
        _pattern = re.compile("|".join(map(re.escape, longest_first)))


def note_url(url: str) -> None:
    """Keeps the user and password in a URL out of all that is shown."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    if at:
        note_secret(user)


def note_environment() -> None:
    """Notes the secrets among the environment's variables that are Pressroom's."""
    for name, value in os.environ.items():
        if not name.startswith(_OURS):
            continue
        if is_secret(name):
            note_secret(value)
        elif "://" in value:
            note_url(value)


def redact(text: str) -> str:
    """The text without secrets."""
    return text if _pattern is None else _pattern.sub(BLOT, text)

"""Prompts: files with a name and a version, rendered with jinja2.

``summarise@3.md`` lies in the folder ``prompts`` beside the pipeline's module. A file has two blocks
and, where wanted, parameters::

    {% set temperature = 0.5 %}
    {% block system %}You are an editor. Answer in JSON.{% endblock %}
    {% block user %}Summarise: {{ text | excerpt(900) }}{% endblock %}

Whatever is filled in is data: the marks by which chat templates tell roles apart are broken up, so
that a document can't speak as the system or end its own turn.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from schemas.errors import UsageError
from schemas.message import record_id

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*@[0-9]+")
# <|im_end|>, <s>, [INST], <<SYS>>, <start_of_turn>, ...: what chat templates are made of
_CONTROL = re.compile(
    r"<[|｜](?=[^|｜\s]{1,40}[|｜]>)|<(?=/?(?:s|start_of_turn|end_of_turn|bos|eos)>)"
    r"|<(?=</?SYS>>)|<<(?=/?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)


def neutralise(value: object) -> object:
    """Breaks up chat-template marks in text, visibly: ``<|im_end|>`` becomes ``‹|im_end|>``."""
    if value is None or isinstance(value, int | float):
        return value
    return _CONTROL.sub(lambda m: m.group().replace("<", "‹").replace("[", "⁅"), str(value))


def excerpt(text: str, most: int) -> str:
    """The beginning of a text, at most ``most`` UTF-8 bytes, cut at a space where one is near."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return text
    mark = "…" if most >= 3 else ""
    cut = encoded[: most - len(mark.encode())].decode("utf-8", "ignore")
    space = cut.rfind(" ", int(len(cut) * 0.8))
    return (cut if space < 0 else cut[:space]).rstrip() + mark


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt with its variables filled in."""

    system: str
    user: str
    temperature: float


class Prompt:
    """A prompt file."""

    def __init__(self, name: str, source: str, file: str = "<prompt>") -> None:
        """
        Args:
            name: ``name@version``.
            source: the file's text.

        Raises:
            UsageError: the template is malformed or lacks a block.
        """
        environment = SandboxedEnvironment(
            undefined=jinja2.StrictUndefined, finalize=neutralise, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        environment.filters["excerpt"] = excerpt
        self.name = name
        self.text_id = record_id(source)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(f"prompt {file}, line {error.lineno}: {error.message}") from None
        missing = {"system", "user"} - self._template.blocks.keys()
        if missing:
            raise UsageError(f"prompt {file} has no block {' and '.join(sorted(missing))}")

    def render(self, variables: dict[str, Any]) -> Rendered:
        """Fills the variables in.

        Raises:
            UsageError: the prompt uses a variable that was not given.
        """
        try:
            parameters: Any = self._template.make_module(variables)
            return Rendered(
                self._block("system", variables),
                self._block("user", variables),
                float(getattr(parameters, "temperature", 0.2)),
            )
        except jinja2.UndefinedError as error:
            raise UsageError(f"prompt {self.name}: {error}; pass it to llm(...)") from None
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UsageError(f"prompt {self.name}: {error}") from None

    def _block(self, name: str, variables: dict[str, Any]) -> str:
        context = self._template.new_context(variables)
        return "".join(self._template.blocks[name](context)).strip()


@cache
def load_prompt(folder: Path, name: str) -> Prompt:
    """Reads ``<folder>/<name>.md``.

    Raises:
        UsageError: the name is not ``name@version``, or there is no such file.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"prompt {name!r} is not of the form name@version, like 'summarise@3'")
    path = folder / f"{name}.md"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*@*.md"))) or "none"
        raise UsageError(f"no prompt {name!r} in {folder} (there: {known})")
    return Prompt(name, path.read_text(encoding="utf-8"), str(path))

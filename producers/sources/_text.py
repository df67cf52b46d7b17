"""Plain text and Markdown: a whole file is one document."""

import io
import re
from itertools import pairwise
from typing import Final

import yaml
from markdown_it import MarkdownIt

from producers.sources._encoding import clean, decode, detect
from producers.sources._types import Found

_FRONT_MATTER: Final = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.M | re.S)
# Titles stand at the beginning; further on it only costs time to look for one.
_TITLE_WITHIN: Final = 65_536
_BLOCKS: Final = MarkdownIt("commonmark").disable("inline")
_INLINE: Final = MarkdownIt("commonmark")


def parse_text(data: bytes) -> Found:
    """The file as it stands. Raises NotText."""
    text = decode(data, detect(io.BytesIO(data)))
    return Found("the file", data, text)


def parse_markdown(data: bytes) -> Found:
    """The file as it stands, without its YAML front matter. Raises NotText."""
    text = clean(parse_text(data).text)
    title, body = _front_matter(text)
    return Found("the Markdown file", data, body, title or _first_heading(body))


def _front_matter(text: str) -> tuple[str, str]:
    """The title in the front matter (or nothing), and the text after it."""
    block = _FRONT_MATTER.match(text)
    if not block or block.end() > _TITLE_WITHIN:
        return "", text
    try:
        # Safer than safe_load: nothing but strings, lists and dicts, so no date is out of range.
        fields = yaml.load(block[1], yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return "", text
    if not isinstance(fields, dict):  # prose between two thematic breaks is text
        return "", text
    title = fields.get("title")
    return title if isinstance(title, str) else "", text[block.end() :]


def _first_heading(text: str) -> str:
    for opening, content in pairwise(_BLOCKS.parse(text[:_TITLE_WITHIN])):
        if opening.type == "heading_open" and content.content:
            pieces = _INLINE.parseInline(content.content)[0].children or []
            return "".join(piece.content or " " for piece in pieces if piece.nesting == 0)
    return ""

"""HTML: a page is one document, as it reads without its markup."""

import io
import re
import warnings
from collections.abc import Iterator
from typing import Final

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import CData, NavigableString, PageElement, Tag
from bs4.exceptions import ParserRejectedMarkup

from producers.sources._encoding import (
    NotText,
    bom_encoding,
    clean,
    declared_encoding,
    decode,
    detect,
)
from producers.sources._types import Found

_DROPPED: Final = frozenset({"script", "style", "noscript", "template", "title"})
_NO_TITLE: Final = (_DROPPED - {"title"}) | {"svg"}
_SPACED: Final = frozenset("p h1 h2 h3 h4 h5 h6 blockquote pre table ul ol dl".split())  # noqa: SIM905
_PARAGRAPHS: Final = frozenset(
    (  # noqa: SIM905
        "address article aside blockquote body caption center details dialog div dl fieldset "
        "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr main menu nav ol p pre "
        "search section table ul"
    ).split()
)
_LINES: Final = frozenset("br dd dt legend li option summary tr".split())  # noqa: SIM905
_CELLS: Final = frozenset({"td", "th"})
_SPACE: Final = re.compile(r"[ \t\n\r\f]+")
_BLANK_LINES: Final = re.compile(r"\n{3,}")


def parse_html(data: bytes) -> Found:
    """The page's text and its `<title>`, or else its first `<h1>`. Raises NotText."""
    soup = _soup(_decode(data))
    title = _first_text(soup, "title") or _first_text(soup, "h1")
    return Found("the page", data, _text(soup), title)


def _decode(data: bytes) -> str:
    if bom_encoding(data) is None:
        label = EncodingDetector.find_declared_encoding(data, is_html=True)
        declared = declared_encoding(label)
        if declared is not None:
            try:
                return decode(data, declared)
            except NotText:
                pass  # pages lie about their encoding; then the bytes decide
    return decode(data, detect(io.BytesIO(data)))


def _soup(markup: str) -> BeautifulSoup:
    with warnings.catch_warnings():  # "looks like a file name", "looks like XML": not for our user
        warnings.simplefilter("ignore")
        try:
            # Not html.parser: unclosed tags keep it busy for hours (quadratic time in 3.11).
            return BeautifulSoup(clean(markup), "lxml")
        except ParserRejectedMarkup:
            raise NotText("is not HTML that can be parsed") from None


def _first_text(soup: BeautifulSoup, name: str) -> str:
    for tag in soup.find_all(name):
        if tag.find_parent([*_NO_TITLE]) is None and (text := tag.get_text().strip()):
            return text
    return ""


def _text(soup: BeautifulSoup) -> str:
    out: list[str] = []
    for piece, verbatim in _pieces(soup):
        spaced = not out or out[-1].endswith((" ", "\n", "\t"))
        piece = piece.lstrip(" ") if spaced and not verbatim else piece
        if piece:
            out.append(piece)
    lines = "".join(out).split("\n")
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n")


def _pieces(soup: BeautifulSoup) -> Iterator[tuple[str, bool]]:
    """The page's strings and the breaks between them; True marks those not to be altered."""
    # An explicit stack: pages nest deeper than Python recurses.
    todo: list[tuple[PageElement | str, bool]] = [(soup, False)]
    while todo:
        node, preformatted = todo.pop()
        if isinstance(node, Tag):
            if node.name not in _DROPPED:
                before, after = _breaks(node.name)
                yield before, True
                todo.append((after, True))
                inside = preformatted or node.name == "pre"
                todo.extend((child, inside) for child in reversed(node.contents))
        elif type(node) is str:
            yield node, True
        elif type(node) in (NavigableString, CData):  # not comments, which are a subclass
            text = str(node)
            yield (text if preformatted else _SPACE.sub(" ", text)), preformatted


def _breaks(name: str) -> tuple[str, str]:
    """What stands before and after an element in plain text."""
    if name in _PARAGRAPHS:
        return "\n\n" if name in _SPACED else "\n", "\n"
    if name in _LINES:
        return "\n", ""
    return "", "\t" if name in _CELLS else ""

"""From bytes to clean text: which encoding a source has, and what is left out of its text."""

import codecs
import re
from functools import partial
from itertools import chain
from typing import BinaryIO, Final

from charset_normalizer import from_bytes

from producers.sources._western import is_western

WIDE: Final = frozenset({"utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"})
"""Encodings in which a newline is more than one byte."""

_CHUNK: Final = 65_536
_BINARY_HEAD: Final = 2_048  # short, so that the zeros in a tar archive's first header stand out
_BOMS: Final = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The single- and multi-byte encodings still met in the wild. Python knows more, among them EBCDIC
# tables that make "text" of any bytes, and codecs that are slow on purpose-made input. Where two
# fit equally well (letters are few, or the text is short), the one named earlier is taken.
_LEGACY: Final = (  # noqa: SIM905
    "cp1252 gb18030 big5 cp932 euc_jp cp949 cp1251 cp1250 cp1253 cp1254 cp1255 cp1256 cp1257 "
    "cp1258 cp874 cp866 koi8_r koi8_u iso8859_2 iso8859_7 iso8859_15 mac_roman"
).split()
# What a page says and what browsers take it for, where the two differ (WHATWG Encoding Standard).
_WEB_ALIASES: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "utf-16": "utf-8",
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
_WEB: Final = frozenset(
    {codecs.lookup(name).name for name in _LEGACY}
    | {"utf-8", "big5hkscs", "iso2022_jp", "mac-cyrillic"}
    | {f"iso8859-{part}" for part in (3, 4, 5, 6, 8, 10, 13, 14, 16)}
)
_CONTROL_BYTES: Final = bytes([*range(9), *range(14, 27), *range(28, 32), 127])
_CONTROLS: Final[dict[int, str | None]] = {
    **dict.fromkeys((*range(32), 127, 0xFEFF)),
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\v"): "\n",
    ord("\f"): "\n",
}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WIDER_THAN_ASCII: Final = re.compile("[^\x00-\x7f]")


class NotText(Exception):
    """The bytes are no text, or in no encoding that can be told. Its text says why."""


def clean(text: str) -> str:
    """The text with `\\n` for newlines, no BOM, no controls but `\\n` and `\\t`, no surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return _SURROGATE.sub("\ufffd", text)


def decode(data: bytes, encoding: str) -> str:
    """The bytes as text. Raises NotText, naming the first wrong byte."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotText(_wrong_byte(error)) from None


def declared_encoding(label: str | None) -> str | None:
    """Python's name of the encoding a web page declares, or None if no browser would know it."""
    try:
        name = codecs.lookup(label or "").name
    except (LookupError, ValueError):
        return None
    name = _WEB_ALIASES.get(name, name)
    return name if name in _WEB else None


def bom_encoding(data: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((name for bom, name in _BOMS if data.startswith(bom)), None)


def detect(stream: BinaryIO) -> str:
    """The encoding of everything in the stream, which is read through in constant memory.

    A byte order mark decides; then valid UTF-8; then, for bytes that are mostly not UTF-8, the
    best guess among the legacy encodings. A file that is UTF-8 but for a few bytes stays UTF-8:
    guessing would garble all the rest of it. Raises NotText.
    """
    head = stream.read(_CHUNK)
    stream.seek(0)
    if head.startswith(b"%PDF-"):  # may be pure ASCII, so nothing else gives it away
        raise NotText("is a PDF, not text")
    encoding = bom_encoding(head)
    if encoding in WIDE:
        _check_wide(stream, encoding)
        return encoding
    _refuse_binary(head, share=0.1)
    return encoding or _utf8_or_legacy(stream)


def _check_wide(stream: BinaryIO, encoding: str) -> None:
    # Line by line there is no way back to the original bytes of broken UTF-16, so all or nothing.
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        _refuse_binary(decoder.decode(stream.read(_CHUNK)).encode(errors="replace"), share=0.1)
        for chunk in iter(partial(stream.read, _CHUNK), b""):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise NotText(f"is not valid {encoding[:6].upper()}: {error.reason}") from None


def _utf8_or_legacy(stream: BinaryIO) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    valid = wrong = 0
    window = sample = b""
    for chunk in chain(iter(partial(stream.read, _CHUNK), b""), [b""]):
        window = window[-256:] + chunk
        text = decoder.decode(chunk, final=not chunk)
        if text.isascii():
            continue
        wrong_here = _SURROGATE.subn("", text)[1]
        valid += _WIDER_THAN_ASCII.subn("", text)[1] - wrong_here
        wrong += wrong_here
        sample = sample or (window if wrong_here else b"")
    return _guess(sample) if wrong > valid else "utf-8"


def _guess(sample: bytes) -> str:
    _refuse_binary(sample, share=0.01)
    sample = _whole_lines(sample)
    if is_western(sample):
        return "cp1252"
    matches = list(from_bytes(sample, cp_isolation=_LEGACY, preemptive_behaviour=False))
    if not matches:
        raise NotText("is binary, or in an encoding that cannot be told")
    best = matches[0]
    fitting = {
        name
        for match in matches
        if match.chaos <= best.chaos and match.coherence >= best.coherence - 0.05
        for name in match.could_be_from_charset
    }
    return next(encoding for encoding in _LEGACY if encoding in fitting)


def _whole_lines(sample: bytes) -> bytes:
    """Without its first and last line if it was cut out of more, which may be half letters."""
    whole = b"\n".join(sample.split(b"\n")[1:-1]) if len(sample) >= _CHUNK else sample
    return sample if whole.isascii() else whole


def _refuse_binary(sample: bytes, share: float) -> None:
    sample = sample[:_BINARY_HEAD]
    controls = len(sample) - len(sample.translate(None, _CONTROL_BYTES))
    if controls > share * len(sample):
        raise NotText("is binary, not text")


def _wrong_byte(error: UnicodeDecodeError) -> str:
    wrong = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
    return f"is not valid {error.encoding.upper()}: {wrong}"

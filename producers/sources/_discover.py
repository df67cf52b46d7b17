"""From what was named on the command line to sources, each once and in a fixed order."""

import atexit
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from producers.sources._encoding import NotText
from producers.sources._records import first_line, is_prose, parse_json
from producers.sources._types import Format, Source, SourceError

_SUFFIXES: Final = {
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
}
_PAGE: Final = re.compile(r"<!doctype\s+html|<html[\s>]", re.IGNORECASE)
_CHUNK: Final = 1 << 20


def discover(
    paths: Sequence[str],
    stdin: BinaryIO | None = None,
    spool: Path | None = None,
    format: Format | None = None,
) -> list[Source]:
    """The sources behind the paths, in the order named; a folder's files come sorted.

    A folder is searched recursively; what is hidden in it (its name begins with a dot) is skipped.
    What only reading can show to be no file (a symlink that leads nowhere or to itself, a pipe, a
    socket, a device) is a source that `read` gives one Unreadable for. A file or folder reached
    twice, through a folder or a symlink, counts once. `-` is standard input
    (`stdin`, by default the process's own), which is stored in the folder `spool` first, by
    default a temporary one that lasts as long as the process. `format` overrides what suffixes
    and the content of standard input say; an unknown suffix means text.

    Raises SourceError for a path that is not there, is neither a file nor a folder, or is a folder
    that may not be listed, and when standard input cannot be stored.
    """
    sources: dict[str, Source] = {}
    for path in dict.fromkeys(paths):  # standard input can be read only once
        if path == "-":
            found = [_standard_input(stdin or sys.stdin.buffer, spool, format)]
        else:
            found = [_file_source(file, format) for file in _files(path)]
        for source in found:
            sources.setdefault(source.uri, source)
    return list(sources.values())


def _file_source(path: Path, format: Format | None) -> Source:
    resolved = Path(os.path.realpath(path))  # Path.resolve would raise on a symlink loop
    suffixes = (path.suffix.lower(), resolved.suffix.lower())
    by_name = next((_SUFFIXES[suffix] for suffix in suffixes if suffix in _SUFFIXES), Format.TEXT)
    return Source(resolved.as_uri(), resolved, format or by_name)


def _files(path: str) -> Iterator[Path]:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(f"{path!r}: {error.strerror}") from None
    except ValueError as error:
        raise SourceError(f"{path!r}: {error}") from None
    if stat.S_ISDIR(mode):
        yield from _walk(path)
    elif stat.S_ISREG(mode):
        yield Path(path)
    else:
        raise SourceError(f"{path!r}: neither a file nor a folder (a pipe is read with '-')")


def _walk(top: str) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(top, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # through a symlink, perhaps one that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder, name)


def _refuse(error: OSError) -> None:
    raise SourceError(f"{os.fspath(error.filename)!r}: {error.strerror}") from None


def _standard_input(stdin: BinaryIO, spool: Path | None, format: Format | None) -> Source:
    try:
        path, digest = _spooled(stdin, spool or _temporary_folder())
        return Source(f"stdin:{digest}", path, format or _guess(path))
    except OSError as error:
        raise SourceError(f"standard input cannot be stored: {error.strerror}") from None


def _spooled(stdin: BinaryIO, folder: Path) -> tuple[Path, str]:
    """Where the bytes are now, and the beginning of their hash."""
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".stdin-", delete=False) as file:
        try:
            for chunk in iter(partial(stdin.read, _CHUNK), b""):
                digest.update(chunk)
                file.write(chunk)
        except BaseException:
            Path(file.name).unlink()
            raise
    name = digest.hexdigest()[:16]
    return Path(file.name).replace(folder / f"stdin-{name}"), name


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="pressroom-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _guess(path: Path) -> Format:
    try:
        line = first_line(path)
    except NotText:
        return Format.TEXT
    if _PAGE.match(line):
        return Format.HTML
    try:
        value = parse_json(line)
    except ValueError:
        return Format.TEXT
    return Format.JSONL if isinstance(value, dict) or is_prose(value) else Format.TEXT

"""What completions cost."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UsageError

_OWN = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens read and written, by model."""

    table: dict[str, tuple[float, float]]

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars, or None when the model's price is not known.

        A dated name (``gpt-5-mini-2025-08-07``) has the price of the name without the date, unless it
        has its own.
        """
        price = self.table.get(model) or self.table.get(_DATE.sub("", model))
        if price is None:
            return None
        return (prompt_tokens * price[0] + completion_tokens * price[1]) / _MILLION


def load_prices(file: Path | None = None) -> Prices:
    """Pressroom's own table and, before it, the user's.

    Raises:
        UsageError: the file can't be read or is no such table.
    """
    table = _read(_OWN)
    return Prices(table | _read(file) if file is not None else table)


def _read(file: Path) -> dict[str, tuple[float, float]]:
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no TOML file: {error}") from None
    return {model: _price(file, model, price) for model, price in found.items()}


def _price(file: Path, model: str, price: Any) -> tuple[float, float]:
    match price:
        case {"input": int() | float() as read, "output": int() | float() as written}:
            if read >= 0 and written >= 0 and len(price) == 2:
                return float(read), float(written)
    raise UsageError(f"{file}: {model} needs `input` and `output`, US dollars per million tokens")

"""The price table."""

from pathlib import Path

import pytest

from schemas.errors import UsageError
from streams.prices import load_prices


def test_the_embedded_model_costs_nothing_and_others_are_unknown() -> None:
    prices = load_prices()
    assert prices.cost("SmolLM2-135M-Instruct", 10, 10) == 0
    assert prices.cost("somebody-elses", 10, 10) is None


def test_the_user_s_table_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["SmolLM2-135M-Instruct"]\ninput = 1\noutput = 2.5\n')
    cost = load_prices(file).cost("SmolLM2-135M-Instruct", 1_000_000, 2_000_000)
    assert cost == pytest.approx(6.0)


def test_a_dated_name_has_the_price_of_the_name(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["m"]\ninput = 1\noutput = 1\n["m-2026-02-02"]\ninput = 2\noutput = 2\n')
    prices = load_prices(file)
    costs = [prices.cost(f"m{end}", 1_000_000, 0) for end in ("", "-2026-01-01", "-20260101")]
    assert costs == [1.0, 1.0, 1.0]
    assert prices.cost("m-2026-02-02", 1_000_000, 0) == 2.0
    assert prices.cost("m-turbo", 1, 1) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "no TOML file"),
        ("a = 1", "a needs `input` and `output`"),
        ("[a]\ninput = 1", "a needs"),
        ("[a]\ninput = -1\noutput = 1", "a needs"),
        ("[a]\ninput = 1\noutput = 1\nextra = 1", "a needs"),
    ],
)
def test_a_wrong_table_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        load_prices(file)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read"):
        load_prices(tmp_path / "none.toml")

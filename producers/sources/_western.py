"""Whether bytes read as cp1252 make the words of a Western language, however few they are.

Statistics of letters need more text than a headline has: a few umlauts are as common in Mac Roman
or Latin-2 as in cp1252. But a wrong table puts them where no one writes them: capitals and signs
into words, letters together that no alphabet has both of.
"""

import re
from typing import Final

_LOWER: Final = "a-zß-öø-ÿœšž"
_WIDE_UPPER: Final = "À-ÖØ-ÞŒŠŽŸ"
_WIDE: Final = f"ß-öø-ÿœšž{_WIDE_UPPER}"
_LETTER: Final = f"A-Za-z{_WIDE}"
_WORD: Final = re.compile(f"[{_LETTER}]+")
_WIDE_LETTER: Final = re.compile(f"[{_WIDE}]")
# By language, what is written besides ASCII: also what loan words and names often bring along.
_ALPHABETS: Final = tuple(
    map(
        frozenset,
        (
            "äöüßéèàáç",  # German
            "àâçéèêëîïôœùûüöñ",  # French
            "áéíñóúüç",  # Spanish, Galician, Irish
            "àáâãçéêíóôõúü",  # Portuguese
            "àèéìíîòóùúç",  # Italian
            "àçéèíïòóúü",  # Catalan
            "åäöéèàáüæø",  # Swedish
            "åæøéèêóòôàäöü",  # Danish, Norwegian
            "äöåéšžõü",  # Finnish, Estonian
            "áàäéèëêïíóöúüûôîç",  # Dutch, Afrikaans
            "áðéíóúýþæö",  # Icelandic
            "áðíóúýæø",  # Faroese
        ),
    )
)
_LOANED: Final = frozenset("šž")
"""Too rare in any of them to stand for a language: in Mac Roman they are ö and û."""

_ODD: Final = re.compile(
    "|".join(
        (
            f"[{_LOWER}][{_WIDE_UPPER}]",
            f"[A-Z{_WIDE_UPPER}]{{2}}[à-öø-ÿœšž]",
            f"[{_WIDE}]{{4}}|(?<![{_LETTER}])[{_WIDE}]{{3}}(?![{_LETTER}])",
            # words of one letter, first and last letters
            f"(?<![{_LETTER}])[^\\WàáåäæèéíóôöøüÀÁÅÄÆÈÉÍÓÔÖØÜ\\x00-\\x7fªºµ²³¹¼½¾](?![{_LETTER}'’])",
            f"(?<![{_LETTER}])[ßðÐ]",
            f"[ìùÌÙ][{_LETTER}]",
            f"[ãÃ](?![oesiOESI])[{_LETTER}]",
            # signs
            f"[{_LETTER}][^\\x00-\\x7f{_LETTER}\\xa0\\xad´·‘’–—…][{_LETTER}]",
            f"[{_LETTER}][¢£¤¥€¦§¨¬¯±¶¸¹¼½¾×÷ƒˆ˜†‡‰µ]|[¢£¤¥€¦§¨¬¯±¶¸¹¼½¾×÷ƒˆ˜†‡‰ºª²³][{_LETTER}]",
            f"[{_LETTER}]{{3}}[ºª]|(?![mM])[{_LETTER}][²³]|(?![nN])[{_LETTER}]°",
            "[¨¯¸ƒˆ˜]",
            f"[{_LETTER}0-9][¡¿]|¿[^?¿]*\\Z|¡[^!¡]*\\Z",
            r"(?<!\d)(?<!\d[ \xa0])¥(?![ \xa0]?\d)",
        )
    )
)


def is_western(data: bytes) -> bool:
    """Whether all that is not ASCII is plausible as cp1252, and most of it in one language."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if _ODD.search(text):
        return False
    words = [frozenset(_WIDE_LETTER.findall(word.lower())) for word in _WORD.findall(text)]
    wide = [letters for letters in words if letters]
    if not wide:
        return True
    letters = sum(map(len, _WORD.findall(text)))
    if 2 * len(_WIDE_LETTER.findall(text)) > letters or frozenset.union(*wide) <= _LOANED:
        return False
    fitting = [sum(letters <= alphabet for letters in wide) for alphabet in _ALPHABETS]
    return 5 * max(fitting) >= 4 * len(wide) and all(
        any(letters <= alphabet for alphabet in _ALPHABETS) for letters in wide
    )

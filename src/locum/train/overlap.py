"""How much of the held-out text stands in the training text too: quoted licences, copied headers, the like.

Whole files are held out, and most repeated lines are dropped from the corpus, but what remains would flatter
a model, so its card says how much there is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from locum.evaluate.texts import Text
from locum.train.baselines import by_domain
from locum.train.corpus import Document

LINES = 4
CHARACTERS = 100
"""Blocks of fewer characters are passed over: four closing brackets are nobody's text."""


def overlap(documents: Mapping[str, Sequence[Document]], texts: Sequence[Text]) -> dict[str, float]:
    """Share of blocks of four lines that training documents hold too: by domain, and of all under `all`."""
    train = {
        hash(block)
        for members in documents.values()
        for document in members
        if not document.held_out
        for block in _blocks(document.text)
    }
    found = {domain: _share(train, pieces) for domain, pieces in by_domain(texts).items()}
    return found | {"all": _share(train, (text.text.encode() for text in texts))}


def _share(train: set[int], pieces: Iterable[bytes]) -> float:
    seen = [hash(block) in train for piece in pieces for block in _blocks(piece.decode())]
    return sum(seen) / max(1, len(seen))


def _blocks(text: str) -> Iterator[str]:
    lines = text.splitlines()
    blocks = ("\n".join(lines[i : i + LINES]) for i in range(len(lines) - LINES + 1))
    return (block for block in blocks if len(block) >= CHARACTERS)

"""What a model has to beat on held-out text: a byte model with the same training text, and xz."""

import lzma
from collections.abc import Iterable, Mapping, Sequence

from locum.evaluate.texts import Text
from locum.train.bytes_model import ByteModel
from locum.train.corpus import Document


def byte_model_bits(documents: Mapping[str, Sequence[Document]], texts: Sequence[Text]) -> dict[str, float]:
    """Bits per byte of an order-5 byte model by domain, and of all text together under `all`."""
    train = [d.text.encode() for members in documents.values() for d in members if not d.held_out]
    model = ByteModel(train)
    found = {domain: model.bits_per_byte(pieces) for domain, pieces in by_domain(texts).items()}
    return found | {"all": model.bits_per_byte(text.text.encode() for text in texts)}


def xz_bits(texts: Sequence[Text]) -> dict[str, float]:
    """Bits per byte of `xz -9e` on the held-out text of each domain at once, and of all under `all`."""
    found = {domain: _xz(pieces) for domain, pieces in by_domain(texts).items()}
    return found | {"all": _xz(text.text.encode() for text in texts)}


def by_domain(texts: Iterable[Text]) -> dict[str, list[bytes]]:
    """The bytes of the texts of each domain."""
    found: dict[str, list[bytes]] = {}
    for text in texts:
        found.setdefault(text.domain, []).append(text.text.encode())
    return found


def _xz(pieces: Iterable[bytes]) -> float:
    whole = b"\0".join(pieces)
    return 8 * len(lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME)) / len(whole)

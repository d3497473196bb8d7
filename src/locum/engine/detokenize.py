"""Token ids to text, piece by piece, adding up to exactly what decoding all of them at once gives.

Decoding is not a map over tokens: a character may be spread over several byte tokens, the first token loses
its space, the last one its suffix, a whole run of byte tokens turns into replacement characters when one of
them does not fit. So instead of decoding windows and guessing, the decoder that the tokenizer declares is
rebuilt as a chain of streaming stages, each of which holds back just what later tokens can still change:

    ids -> tokens -> [Replace, Metaspace, WordPiece, BPEDecoder, Strip, ByteFallback: token by token]
           -> [ByteLevel or Fuse: the tokens become one text] -> [Replace, Strip: on that text] -> text

A token costs its own length. What is held back: at most 3 bytes of a character (byte-level), the current run
of byte tokens (byte fallback), one token (a suffix that differs at the end), a few characters (replacements).
A decoder that is not made of these is decoded as a whole at the end; `DecodePlan.streams` tells.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from locum.engine.decode_stages import Stage, StageFactory, TextReplace, build_stages

# What transformers' clean_up_tokenization_spaces takes a space away from, in its order.
_CLEAN_UP = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
_CLEAN_UP += [(f" {word}", word) for word in ("n't", "'m", "'s", "'ve", "'re")]


@dataclass(frozen=True)
class DecodePlan:
    """How one tokenizer's ids become text; made once, shared by all requests. See `plan_decoding`."""

    token_of: Callable[[int], str | None]
    skip: frozenset[str]
    stages: tuple[StageFactory, ...] | None
    decode_all: Callable[[list[int]], str]

    @property
    def streams(self) -> bool:
        """False when the decoder is of an unknown kind and text only comes at the end."""
        return self.stages is not None


def plan_decoding(
    backend: Tokenizer,
    *,
    skip_special_tokens: bool = True,
    clean_up: bool = False,
    decode_all: Callable[[list[int]], str] | None = None,
) -> DecodePlan:
    """A `DecodePlan` for a `tokenizers` tokenizer.

    `clean_up`: transformers' clean_up_tokenization_spaces follows the decoder. `decode_all`: decode with this
    function instead, as a whole at the end (for a tokenizer class with a decoding of its own).
    """
    spec = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    stages = None if decode_all is not None else build_stages(spec)
    if stages is not None and clean_up:
        stages += [_replacing(old, new) for old, new in _CLEAN_UP]

    def whole(ids: list[int]) -> str:
        text = backend.decode(ids, skip_special_tokens=skip_special_tokens)
        for old, new in _CLEAN_UP if clean_up else ():
            text = text.replace(old, new)
        return text

    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    return DecodePlan(
        token_of=backend.id_to_token,
        skip=frozenset(special if skip_special_tokens else ()),
        stages=None if stages is None else tuple(stages),
        decode_all=decode_all or whole,
    )


def _replacing(old: str, new: str) -> StageFactory:
    return lambda: TextReplace(old, new)


class Detokenizer:
    """One request's ids to text: `push` every id, `flush` once. The pieces add up to the decoding of all ids.

    No piece ends in half a character. Ids that the tokenizer does not know give no text, nor do special
    tokens if the plan skips them.
    """

    def __init__(self, plan: DecodePlan) -> None:
        self._plan = plan
        self._stages: list[Stage] = [make() for make in plan.stages or ()]
        self._ids: list[int] = []
        self._ended = False

    def push(self, token_id: int) -> str:
        """Take the next id, return the text that is settled by it (often none)."""
        assert not self._ended, "push after flush"
        if self._plan.stages is None:
            self._ids.append(token_id)
            return ""
        token = self._plan.token_of(token_id)
        if token is None or token in self._plan.skip:
            return ""
        return "".join(self._through(0, (token,)))

    def flush(self) -> str:
        """The ids have ended: return what was held back."""
        assert not self._ended, "flush twice"
        self._ended = True
        if self._plan.stages is None:
            return self._plan.decode_all(self._ids)
        pieces: list[str] = []
        for number, stage in enumerate(self._stages):
            pieces += self._through(number + 1, stage.finish())
        return "".join(pieces)

    def _through(self, first: int, pieces: Sequence[str]) -> Sequence[str]:
        for stage in self._stages[first:]:
            pieces = [settled for piece in pieces for settled in stage.feed(piece)]
        return pieces

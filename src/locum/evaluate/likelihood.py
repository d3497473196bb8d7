"""How well a model foresees text: its loss token by token, and how far it is from another model.

Text longer than the window is cut into windows that overlap, so that every token but the first few of a text
has some text before it; each token is judged once. Bits per byte do not depend on the tokenizer.

Axes: T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from locum.engine.engine import Engine
from locum.errors import NumericsError, UsageError
from locum.evaluate.texts import Text

WINDOW = 512
OVERLAP_SHARE = 4
"""One part in this many of a window was judged with the window before."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a piece of text gave: `tokens` were judged, which are `size` bytes, at `nats` in all.

    Beside a reference, also the sum of `kl` (from the reference to the model, nats) and how often the
    likeliest token was the same.
    """

    domain: str
    tokens: int
    size: int
    nats: float
    kl: float = 0.0
    same_top: int = 0


def token_ids(engine: Engine, text: Text) -> list[int]:
    """The text's tokens, after the token that begins a text where the tokenizer has one."""
    hf = engine.tokenizer.hf
    ids = engine.tokenizer.encode(text.text)
    first = hf.bos_token_id
    return ids if first is None or ids[0] == first else [first, *ids]


def score(engine: Engine, text: Text, *, against: Engine | None = None, window: int = WINDOW) -> Score:
    """Judge one piece of text. Raises `UsageError` when the two models cut it into different tokens."""
    ids = token_ids(engine, text)
    if against is not None and token_ids(against, text) != ids:
        raise UsageError(
            "the two models do not share a tokenizer", got=f"different tokens for a text of {text.domain}"
        )
    nats = kl = 0.0
    same = 0
    for inputs, judged in cut(len(ids), window):
        wanted_T = torch.tensor(ids[judged.start : judged.stop])
        log_p_TV = _log_probabilities(engine, ids[inputs.start : inputs.stop])[-len(wanted_T) :]
        nats -= float(log_p_TV.gather(1, wanted_T[:, None]).double().sum())
        if against is not None:
            log_q_TV = _log_probabilities(against, ids[inputs.start : inputs.stop])[-len(wanted_T) :]
            kl += float((log_q_TV.exp() * (log_q_TV - log_p_TV)).double().sum())
            same += int((log_p_TV.argmax(-1) == log_q_TV.argmax(-1)).sum())
    if not math.isfinite(nats):
        raise NumericsError("the loss is not a number", where=f"a text of {text.domain}, {text.source}")
    unjudged = engine.tokenizer.decode(ids[:1]) if ids else ""
    return Score(text.domain, len(ids) - 1, len(text.text.encode()) - len(unjudged.encode()), nats, kl, same)


def cut(tokens: int, window: int) -> Iterator[tuple[range, range]]:
    """(tokens to run, tokens to judge): each token but the first is judged once, with what fits before it.

    What is run are the tokens before each judged one, so `judged` ends one place after `inputs`. Raises
    `UsageError` for a window of nothing.
    """
    if window < 1:
        raise UsageError("a window has no tokens", allowed="at least 1", got=window)
    done = 1
    while done < tokens:
        start = max(0, done - 1 - window // OVERLAP_SHARE)
        stop = min(tokens, start + window + 1)
        yield range(start, stop - 1), range(done, stop)
        done = stop


@torch.inference_mode()
def _log_probabilities(engine: Engine, ids: Sequence[int]) -> Tensor:
    """[T, V]: after each of `ids`, the log probability of every next token, in float32."""
    logits_TV: Tensor = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits_TV.float().log_softmax(-1)

"""Answers of vLLM and SGLang that hold `routed_experts`, one JSON document a line.

vLLM (`--enable-return-routed-experts`, `/inference/v1/generate`): per choice, base64 of a `.npy` file
[tokens, layers, K]. SGLang (`return_routed_experts`): in `meta_info` (`/generate`) or `sglext` (the OpenAI
endpoints), base64 of bare int32 [tokens, layers, K], whose shape the user has to say. Both give logical ids,
for all layers, dense ones included, and for every token but the last one sampled.
"""

import base64
import binascii
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TraceError
from locum.trace.columns import DECODE, PREFILL
from locum.trace.importers.base import Hints, Imported, Loader, Record, assemble

_NPY = b"\x93NUMPY"


def read(source: Path, hints: Hints, load: Loader) -> Imported:
    """See `base`. Raises `TraceError` naming the line."""
    notes: dict[str, None] = {}

    def records() -> Iterator[Record]:
        step = 0
        for request, (where, answer, payload) in enumerate(_payloads(source)):
            ids_TLK = _decode(payload, hints, where)
            if len(ids_TLK):
                yield _record((request, step), answer, ids_TLK, where, notes)
                step += len(ids_TLK)

    found = assemble(records, hints, "routed-experts", source)
    return Imported(found.meta, found.rows, tuple(notes))


def _record(
    place: tuple[int, int],
    answer: Mapping[str, Any],
    ids_TLK: NDArray[Any],
    where: str,
    notes: dict[str, None],
) -> Record:
    request, step = place
    count = len(ids_TLK)
    prompt, tokens = _prompt_length(answer), _tokens(answer)
    if prompt is None:
        notes["some answers do not say how long the prompt was: every token counts as a step"] = None
    if tokens is not None and len(tokens) not in (count, count + 1):
        raise TraceError(
            "tokens and routing do not belong together", where=where,
            allowed=f"{count} or {count + 1} tokens", got=len(tokens),
        )  # fmt: skip
    together = min(prompt or 1, count)
    place_T = np.arange(count)
    return Record(
        where, np.full(count, request, np.int32), place_T.astype(np.int32),
        step + np.maximum(0, place_T - together + 1),
        np.where(place_T < (prompt or 0), PREFILL, DECODE).astype(np.uint8), ids_TLK,
        None if tokens is None else np.array(tokens[:count], np.int32),
    )  # fmt: skip


def _payloads(source: Path) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(where, the answer or choice, base64) of all that is there."""
    try:
        with open(source, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _of_answer(json.loads(line), f"{source.name}, line {number}")
    except (OSError, ValueError) as error:
        raise TraceError("not JSON, one answer a line", where=source, got=error) from error


def _of_answer(answer: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    if not isinstance(answer, Mapping):
        raise TraceError("an answer is a JSON object", where=where, got=type(answer).__name__)
    found = False
    for holder in (answer, answer.get("meta_info"), answer.get("sglext"), *(answer.get("choices") or ())):
        if isinstance(holder, Mapping) and isinstance(payload := holder.get("routed_experts"), str):
            found = True
            yield where, {**answer, **holder}, payload
    if not found:
        todo = "Ask the server to return them with each answer"
        raise TraceError("the answer holds no routed_experts", where=where, todo=todo)


def _decode(payload: str, hints: Hints, where: str) -> NDArray[Any]:
    try:
        data = base64.b64decode(payload, validate=True)
        if data.startswith(_NPY):
            array = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            array = _bare(data, hints, where)
    except (binascii.Error, ValueError, EOFError, OSError) as error:
        raise TraceError("routed_experts cannot be decoded", where=where, got=error) from error
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise TraceError(
            "routed_experts of another shape", where=where, allowed="whole numbers [tokens, layers, k]",
            got=f"{array.dtype} {array.shape}",
        )  # fmt: skip
    found: NDArray[np.int64] = array.astype(np.int64)
    return found


def _bare(data: bytes, hints: Hints, where: str) -> NDArray[Any]:
    if hints.layers is None or hints.top_k is None:
        todo = "Say how many layers the model has, dense ones included, and how many experts a token chooses"
        raise TraceError("SGLang's routed_experts say no shape", where=where, todo=todo)
    row = 4 * hints.layers * hints.top_k
    if len(data) % row:
        raise TraceError(
            "routed_experts do not fill their rows",
            where=where,
            allowed=f"a multiple of {row} bytes",
            got=len(data),
        )
    return np.frombuffer(data, "<i4").reshape(-1, hints.layers, hints.top_k)


def _prompt_length(answer: Mapping[str, Any]) -> int | None:
    usage = answer.get("usage") or answer.get("meta_info") or {}
    if isinstance(ids := answer.get("prompt_token_ids"), list):
        return len(ids)
    for holder in (usage, answer):
        if isinstance(holder, Mapping) and isinstance(count := holder.get("prompt_tokens"), int):
            return count
    return None


def _tokens(answer: Mapping[str, Any]) -> list[int] | None:
    """Prompt and answer, where both are there."""
    prompt, answered = answer.get("prompt_token_ids"), answer.get("token_ids") or answer.get("output_ids")
    return [*prompt, *answered] if isinstance(prompt, list) and isinstance(answered, list) else None

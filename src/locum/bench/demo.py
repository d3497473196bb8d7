"""`make demo`: the main job in one minute, checked against transformers.

A small model generates with a quarter of its experts in memory. Then transformers loads the whole model and is
driven through the same calls, and every call's logits are compared bit by bit.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

PROMPT = "Explain in one paragraph what a locum is."
TOKENS = 48
MEMORY = "640MiB"
SHARE = "25%"


def main() -> int:
    """Run the demo; 0 when the bits are transformers' own."""
    from locum.cli.output import Output, OutputOptions
    from locum.engine.engine import load
    from locum.engine.outcome import Outcome
    from locum.engine.session import introduce, known_profile, shipped_model

    with Output(OutputOptions()) as output:
        path = shipped_model()
        profile = known_profile(path, output)
        with output.working("loading the demo model with a quarter of its experts"):
            engine = load(path, memory=MEMORY, expert_memory=SHARE)
        with engine, recorded(engine.model) as calls:
            introduce(engine, profile, output)
            prompt = engine.encode([{"role": "user", "content": PROMPT}])
            stream = engine.stream(prompt, max_tokens=TOKENS, ignore_eos=True)
            for piece in stream:
                output.text(piece)
            output.text("\n")
            assert stream.result is not None
            rows = Outcome(engine, stream.result, profile).rows()
        with output.working("asking transformers to do the same with all of it in memory"):
            identical = same_bits(calls, replay(path, calls))
        rows.append(
            ("identical to transformers", f"{'yes' if identical else 'NO'}, {len(calls)} calls compared")
        )
        output.block(rows, "what it took")
    return 0 if identical else 1


Call = tuple[list[int], Tensor]
"""The token ids of one forward call and the logits [V] of its last token."""


@contextmanager
def recorded(model: Any) -> Iterator[list[Call]]:
    """Remember every forward call of `model` in the list that is yielded."""
    calls: list[Call] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((kwargs["input_ids"][0].tolist(), output.logits[0, -1].clone()))

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def replay(path: Path, calls: Sequence[Call]) -> list[Call]:
    """The same calls by transformers itself: all experts in memory, its own eager implementation."""
    from transformers import AutoModelForCausalLM, DynamicCache

    from locum.backbone.family import quiet_transformers
    from locum.backbone.load import own_memory
    from locum.engine.steps import Context, Part, forward

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", experts_implementation="eager", local_files_only=True
        ).eval()
    own_memory(model)
    context = Context(DynamicCache(config=model.config))
    return [(ids, forward(model, [Part(context, ids)])[0]) for ids, _ in calls]


def same_bits(one: Sequence[Call], other: Sequence[Call]) -> bool:
    """True when both made the same calls and every logit has the same bits."""
    import torch

    return len(one) == len(other) > 0 and all(
        a_ids == b_ids and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for (a_ids, a), (b_ids, b) in zip(one, other, strict=True)
    )


if __name__ == "__main__":
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())

"""How much each expert is used on a text.

Axes: T tokens, K chosen, E experts, L layers.
"""

from collections.abc import Sequence

import torch

from locum.backbone.experts import experts_modules
from locum.engine.engine import Engine
from locum.evaluate.likelihood import cut, token_ids
from locum.evaluate.texts import Text

WINDOW = 256


@torch.inference_mode()
def expert_loads(engine: Engine, texts: Sequence[Text]) -> list[list[float]]:
    """[L][E]: each expert's share of its layer's choices times E, so 1 everywhere when the load is even."""
    counts: list[torch.Tensor] = []
    hooks = []

    def listen(layer: int, ids_TK: torch.Tensor) -> None:
        flat = ids_TK.reshape(-1)
        counts[layer] += torch.bincount(flat[flat < len(counts[layer])], minlength=len(counts[layer]))

    for number, (_, module) in enumerate(experts_modules(engine.model)):
        counts.append(torch.zeros(len(engine.residents.index.layers[number].experts), dtype=torch.long))
        hooks.append(module.register_forward_pre_hook(lambda _, args, n=number: listen(n, args[1])))
    try:
        for text in texts:
            ids = token_ids(engine, text)
            for inputs, _ in cut(len(ids), WINDOW):
                engine.model(input_ids=torch.tensor([ids[inputs.start : inputs.stop]]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [(count * (len(count) / count.sum())).tolist() for count in counts]

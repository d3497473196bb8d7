"""Find each MoE layer's router and ask it ahead of time.

transformers' routers return a tuple that begins (logits [T, E], weights [T, K], ids [T, K]) in every
decorated family, so one call serves them all. An adapter whose router returns something else leaves on it a
`locum_choice`: from what the router returns to (weights, ids).
"""

import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn

from locum.backbone.experts import experts_modules, experts_width

_ROUTER_CLASS = re.compile(r"(Router|Gate)$")


def find_routers(model: nn.Module) -> list[nn.Module | None]:
    """Per MoE layer in forward order, the router beside the experts module; None where there is none alone.

    A router that takes more than the hidden states (token ids, a bias, another layer's state), or looks at
    other states than its experts do, cannot be asked ahead and counts as none.
    """
    return [
        _router_beside(model.get_submodule(path.rpartition(".")[0]), experts)
        for path, experts in experts_modules(model)
    ]


def router_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every router beside an experts module, those that cannot be asked ahead included."""
    for path, _ in experts_modules(model):
        yield from _beside(model.get_submodule(path.rpartition(".")[0]))


def _beside(block: nn.Module) -> list[nn.Module]:
    return [child for child in block.children() if _ROUTER_CLASS.search(type(child).__name__)]


def _router_beside(block: nn.Module, experts: nn.Module) -> nn.Module | None:
    found = _beside(block)
    if len(found) != 1:
        return None
    parameters = inspect.signature(found[0].forward).parameters.values()
    taken = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    weight = getattr(found[0], "weight", None)
    narrower = isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[1] != experts_width(experts)
    return found[0] if len(taken) == 1 and not narrower else None


@torch.no_grad()
def predict(router: nn.Module, x_TH: Tensor) -> tuple[Tensor, Tensor]:
    """What `router` would choose for `x_TH`: weights [T, K] and ids [T, K]. Hooks on the router do not
    fire.
    """
    found = type(router).forward(router, x_TH)
    choice = router.__dict__.get("locum_choice")
    weights_TK, ids_TK = found[1:3] if choice is None else choice(found)
    return weights_TK, ids_TK


@torch.no_grad()
def router_scores(router: nn.Module, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
    """(probabilities, selection scores), float32 [T, E], from the first thing that `router` returns.

    The probabilities are softmax or sigmoid as the router's code has it; the selection scores have the
    router's correction bias on top, where there is one. Groups that are chosen first are not seen in either.
    """
    logits = logits_TE.float()
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(()), atol=1e-2):
        return logits, logits  # some routers give probabilities
    probabilities = (
        logits.sigmoid() if _is_sigmoid(type(router).__module__, type(router).__name__) else logits.softmax(1)
    )
    bias = getattr(router, "e_score_correction_bias", None)
    return probabilities, probabilities if bias is None else probabilities + bias.float()


@cache
def _is_sigmoid(module: str, name: str) -> bool:
    return "sigmoid" in inspect.getsource(getattr(sys.modules[module], name))

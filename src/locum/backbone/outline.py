"""What a checkpoint of any config holds, from the config alone: every tensor's name and shape as Hugging Face
would save it, and the values of the few that may not be random.

The model is built without memory and its state is taken back through transformers' own conversions, as
`save_pretrained` does (`revert_weight_conversion`, not documented interface; the tests load the result with
transformers). Matrices stay on the meta device and become random. Everything else, such as decay rates,
steps of state-space layers or tables of a fixed routing, gets the value that transformers gives it in a
fresh model.
"""

import math

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from locum.backbone.experts import is_experts
from locum.backbone.family import model_class, quiet_transformers
from locum.errors import CheckpointError
from locum.synth.given import text_part, with_text
from locum.synth.names import Config, TensorSpec

_MATRICES = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError)
_BIG = 1 << 18
"""A parameter with more numbers than this is a matrix whatever it is called."""
_SPREAD = 0.1
"""Deviation of norms about their mean, of biases and of embeddings, as in `synth.noise`."""
_SELECTION_SPREAD = 0.01
"""Of the biases that take part in the choice of experts: they meet sigmoids, a quarter as steep as logits."""


def outline(config: Config) -> list[TensorSpec]:
    """Every tensor of a checkpoint with this `config.json`, in the order of the model's modules.

    Raises `CheckpointError` for a config that transformers refuses, `UnsupportedError` for one without a
    model that generates text.
    """
    skeleton = _skeleton(config)
    _settle(skeleton)
    state = skeleton.state_dict()
    for name in (*(skeleton._keys_to_ignore_on_save or ()), *skeleton.all_tied_weights_keys):
        state.pop(name, None)
    _choose_experts(skeleton, state)
    with quiet_transformers():
        saved = revert_weight_conversion(skeleton, state)
    return [_spec(name, tensor) for name, tensor in saved.items()]


def completed(config: Config) -> Config:
    """The config with what a saved one always has: the class that runs it, transformers' version, and the
    numbers of the text part that were left to transformers' defaults.

    Raises as `outline` does.
    """
    skeleton = _skeleton(config)
    meant: Config = skeleton.config.get_text_config().to_dict()
    numbers = {key: value for key, value in meant.items() if type(value) in {int, float}}
    left_out = {key: value for key, value in numbers.items() if key not in text_part(config)}
    known = {"architectures": [type(skeleton).__name__], **with_text(config, **left_out)}
    return {**known, "transformers_version": transformers.__version__}


def described(config: Config) -> Config:
    """The text part of the config as transformers understands it, every default filled in.

    Raises as `outline` does.
    """
    meant: Config = _skeleton(config).config.get_text_config().to_dict()
    return meant


def _skeleton(config: Config) -> PreTrainedModel:
    """The model on the meta device: names and shapes, no memory."""
    family = str(config.get("model_type"))
    rest = {key: value for key, value in config.items() if key != "model_type"}
    rest = PreTrainedConfig._decode_special_floats(rest)  # as it reads a file
    try:
        with torch.device("meta"), quiet_transformers():
            parsed = AutoConfig.for_model(family, **rest)
            skeleton = model_class(parsed)._from_config(parsed)
    except (*_REFUSALS, StrictDataclassError) as error:
        raise CheckpointError("transformers cannot build this config", where=family, got=error) from error
    assert isinstance(skeleton, PreTrainedModel)
    return skeleton


def _is_matrix(module: nn.Module, name: str, tensor: Tensor) -> bool:
    named = isinstance(module, _MATRICES) or is_experts(module) or name.endswith("weight")
    return tensor.is_floating_point() and tensor.dim() > 1 and (named or tensor.numel() > _BIG)


def _settle(skeleton: PreTrainedModel) -> None:
    """Give everything but matrices memory, and the value it has in a fresh model of transformers'."""
    for module in skeleton.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]  # it was, on the meta device
        for name, parameter in module._parameters.items():
            if parameter is not None and not _is_matrix(module, name, parameter):
                fresh = torch.zeros(parameter.shape, dtype=parameter.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(fresh, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        skeleton.initialize_weights()


def _choose_experts(skeleton: PreTrainedModel, state: dict[str, Tensor]) -> None:
    """Fill tables of a routing by the token's number, zero in a fresh model: distinct experts for each."""
    generator = torch.Generator().manual_seed(0)
    for name, table_VK in state.items():
        if name.endswith("tid2eid"):
            experts = int(skeleton.config.get_text_config().n_routed_experts)
            order_VE = torch.rand(table_VK.shape[0], experts, generator=generator).argsort(-1)
            table_VK.copy_(order_VE[:, : table_VK.shape[1]])


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    shape = tuple(tensor.shape)
    if tensor.is_meta:
        return TensorSpec(name, shape, (0.0, _deviation(name, shape)))
    if not tensor.is_floating_point():
        return TensorSpec(name, shape, content=tensor.contiguous().numpy())
    first = float(tensor.reshape(-1)[0]) if tensor.numel() else 0.0
    alike = bool((tensor == first).all())
    if alike and tensor.dim() == 1 and name.endswith("norm.weight"):
        return TensorSpec(name, shape, (first + (3.0 if "q_norm" in name else 0.0), _SPREAD))
    if alike and first == 0 and name.endswith("bias"):
        selects = "correction" in name or "expert_bias" in name
        return TensorSpec(name, shape, (0.0, _SELECTION_SPREAD if selects else _SPREAD))
    return TensorSpec(name, shape, content=tensor.float().contiguous().numpy())


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    """Of a matrix: 1 / sqrt(inputs), rounded to a power of sqrt(2) so that a checkpoint needs few pools.

    Fused experts [E, ., .] count the mean of both sides, because families disagree on which comes first.
    """
    if "embed" in name or name.endswith(("bias", "sinks")):
        return _SPREAD
    fused = len(shape) == 3 and "conv" not in name
    inputs = (shape[1] * shape[2]) ** 0.5 if fused else math.prod(shape[1:])
    return float(2.0 ** (round(-math.log2(max(1.0, inputs))) / 2))

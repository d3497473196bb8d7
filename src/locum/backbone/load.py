"""Load a checkpoint's backbone: everything but the routed experts, whose bytes are never read here."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.core_model_loading import GLOBAL_WORKERS, build_glob_alternation

from locum.backbone.experts import IMPLEMENTATION
from locum.backbone.family import model_class, quiet_transformers, read_config, stripped_class
from locum.backbone.lazy import lazy_state
from locum.errors import CheckpointError, NumericsError
from locum.model.checkpoint import Checkpoint
from locum.store.checks import Verify

_RUN = 1 << 20
"""Numbers that are added up at a time: torch makes float32 of them first."""


def load_backbone(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, verify: Verify = "first"
) -> PreTrainedModel:
    """The transformers model of `checkpoint` in `dtype` (default: the checkpoint's own), without its experts.

    The model calls the experts function registered as "locum"; `backbone.runtime.attach` gives it one to
    call. `verify`: whether the tensors of a packed folder are compared with their checksums. Raises
    `CheckpointError` for a tensor that is missing, damaged or of the wrong shape, `NumericsError` for NaN.
    """
    config = read_config(checkpoint)
    cls = stripped_class(model_class(config))
    with quiet_transformers():
        try:
            loaded: Any = cls.from_pretrained(
                None,
                state_dict=lazy_state(checkpoint, dtype or config.dtype or torch.bfloat16, verify=verify),
                config=config,
                dtype=dtype or "auto",
                experts_implementation=IMPLEMENTATION,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(
                "the backbone cannot be loaded", where=checkpoint.folder, got=error
            ) from error
    model, info = loaded
    if (checkpoint.folder / "generation_config.json").exists():  # looked for only beside weights it finds
        model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
    _require_complete(checkpoint, info)
    own_memory(model, only=_is_part)
    _require_numbers(checkpoint, model)
    model.eval()
    assert isinstance(model, PreTrainedModel)
    return model


def resident_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """What the backbone takes once loaded in `dtype`.

    Headers do not tell: some families keep a few tensors in float32 whatever the rest is in.
    """
    config = read_config(checkpoint)
    with torch.device("meta"), quiet_transformers():
        skeleton = stripped_class(model_class(config))._from_config(config, dtype=dtype)
    plan = list(skeleton._get_dtype_plan(dtype))
    kept = build_glob_alternation(plan)[0]
    held = {id(tensor): (name, tensor) for name, tensor in skeleton.state_dict(keep_vars=True).items()}
    return sum(
        tensor.numel() * (torch.float32 if plan and kept.search(name) else tensor.dtype).itemsize
        for name, tensor in held.values()  # tied weights are one
    )


def loading_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """The most memory that `load_backbone` takes for a while beside what stays."""
    tensors = lazy_state(checkpoint, dtype)
    experts = re.compile(r"\.experts\.")
    return GLOBAL_WORKERS * max(
        tensor.loading_bytes() for name, tensor in tensors.items() if not experts.search(name)
    )


def own_memory(model: nn.Module, only: Callable[[torch.Tensor], bool] = lambda tensor: True) -> None:
    """Copy tensors into memory of torch's own: out of a mapped file, or `only` some.

    Two reasons: a mapped weight can be dropped by the kernel and read again at each token, and its alignment
    (whatever the file happens to have) changes the last bit of matrix products.
    """
    with torch.no_grad():  # tied weights stay tied: they share one Parameter object
        for tensor in [*model.parameters(), *model.buffers()]:
            if not tensor.is_meta and only(tensor):
                tensor.data = tensor.data.clone()


def _is_part(tensor: torch.Tensor) -> bool:
    """Whether it was cut out of a longer one, which it keeps in memory."""
    return tensor.untyped_storage().nbytes() != tensor.nbytes


def _require_complete(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ()))
    if missing:  # transformers would have filled these with random numbers
        raise CheckpointError(
            f"{len(missing)} tensors that the config asks for are missing",
            where=checkpoint.folder,
            got=", ".join(missing[:4]) + (" ..." if len(missing) > 4 else ""),
            todo="Download the checkpoint again or mend config.json",
        )
    mismatched = sorted(info.get("mismatched_keys", ()))
    if mismatched:
        raise CheckpointError(
            "tensor shapes disagree with the config", where=checkpoint.folder, got=str(mismatched[:4])
        )


def _require_numbers(checkpoint: Checkpoint, model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not tensor.is_meta and _has_nan(tensor):
            raise NumericsError(
                "NaN among the weights",
                where=f"{checkpoint.folder}, tensor {name}",
                todo="The checkpoint is damaged: download it again",
            )


def _has_nan(tensor: torch.Tensor) -> bool:
    # the sum of a run is NaN if any number is, or if infinities of both signs meet
    return any(bool(run.sum(dtype=torch.float32).isnan()) for run in tensor.detach().reshape(-1).split(_RUN))

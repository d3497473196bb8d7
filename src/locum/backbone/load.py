"""Load a checkpoint's backbone: everything but the routed experts, whose bytes are never read here."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from locum.backbone.experts import IMPLEMENTATION
from locum.backbone.family import model_class, quiet_transformers, read_config, stripped_class
from locum.backbone.lazy import lazy_state
from locum.errors import CheckpointError, NumericsError
from locum.model.checkpoint import Checkpoint
from locum.model.schemes import declared
from locum.store.checks import Verify


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
                **_source(checkpoint, dtype or config.dtype, verify),
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
    own_memory(model)
    _require_numbers(checkpoint, model)
    model.eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _source(checkpoint: Checkpoint, dtype: torch.dtype | None, verify: Verify) -> dict[str, Any]:
    """Where transformers finds the weights: the folder, or tensors that we make when it could not read it."""
    if not declared(checkpoint) and checkpoint.packed is None:
        return {"pretrained_model_name_or_path": checkpoint.folder}
    return {
        "pretrained_model_name_or_path": None,
        "state_dict": lazy_state(checkpoint, dtype or torch.bfloat16, verify=verify),
    }


def own_memory(model: nn.Module) -> None:
    """Copy every tensor out of the mapped file into torch's own memory.

    Two reasons: a mapped weight can be dropped by the kernel and read again at each token, and its alignment
    (whatever the file happens to have) changes the last bit of matrix products.
    """
    seen: dict[int, torch.Tensor] = {}  # tied weights stay tied: they share one Parameter object already
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if id(tensor) in seen or tensor.is_meta:
                continue
            seen[id(tensor)] = tensor
            tensor.data = tensor.data.clone()


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
        # the sum is NaN if any element is (or if infinities of both signs meet), at a fraction of isnan's
        # memory
        if (
            tensor.is_floating_point()
            and not tensor.is_meta
            and bool(tensor.sum(dtype=torch.float32).isnan())
        ):
            raise NumericsError(
                "NaN among the weights",
                where=f"{checkpoint.folder}, tensor {name}",
                todo="The checkpoint is damaged: download it again",
            )

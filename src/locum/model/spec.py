"""`MoESpec`: what a Mixture-of-Experts checkpoint is, from `config.json` and safetensors headers alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from locum.errors import CheckpointError, NotMoEError, UnsupportedError
from locum.model import config as keys
from locum.model.checkpoint import Checkpoint
from locum.model.config import Reader
from locum.model.families import expected_layers, family_of, unrunnable
from locum.model.header import TensorInfo
from locum.model.kv import KVLayer, kv_layers
from locum.model.names import (
    ExpertGroup,
    expert_groups,
    layer_of,
    numbered_below,
    packed_groups,
)
from locum.model.packed import PLAIN
from locum.model.quant import DTYPE_BYTES, FLOATS, quantization_of
from locum.model.rest import Rest
from locum.model.routers import router_kind
from locum.model.schemes import parameter_counts, unreadable
from locum.model.verify import verify_backbone, verify_groups

# Families whose files number on after the routed experts: with experts for images, or with "zero experts".
_NUMBERED_ON = ("ernie4_5_vl_moe", "longcat_flash")


@dataclass(frozen=True, slots=True)
class MoELayer:
    """The routed experts of one layer. All figures are of one expert, as stored."""

    layer: int
    """Absolute index: dense layers count."""
    module: str
    """Name in the files, before the expert's number or the fused matrix."""
    layout: str
    """`per-expert` or `fused`, see `names`."""
    experts: int
    top_k: int
    expert_bytes: int
    expert_params: int
    pieces: tuple[tuple[str, int], ...]
    """(name, bytes) of each stored tensor of an expert; in the files they may lie apart."""


@dataclass(frozen=True, slots=True)
class MoESpec:
    """What a checkpoint is. All sizes in bytes."""

    family: str
    """`model_type`, for composite configs the decoder's."""
    architecture: str
    """The class that `config.json` names, empty where it names none."""
    layers: int
    """Decoder layers, dense ones included, extra prediction layers not."""
    moe: tuple[MoELayer, ...]
    shared_experts: int
    """Experts per MoE layer that every token uses; they belong to the backbone."""
    router: str
    """See `routers.router_kind`."""
    dtype: str
    """torch's name of the dtype that the model computes in: the config's, else the embedding's."""
    quantization: str | None
    """See `quant.quantization_of`."""
    hidden_size: int
    vocab_size: int
    context_length: int
    kv: tuple[KVLayer, ...]
    tied_embeddings: bool
    remote_code: bool
    """The config points at code of its own (`auto_map`). locum never runs it."""
    backbone_bytes: int
    """Stored bytes of everything that is neither a routed expert nor ignored."""
    backbone_params: int
    backbone_resident_bytes: int
    """The backbone in memory once loaded in `dtype`, dequantised."""
    ignored_bytes: int
    """Stored bytes that stay in the files: extra prediction layers, computed buffers, towers for images and
    sound.
    """
    unrunnable: str | None
    """Why locum does not run it, None when it does."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "MoESpec":
        """Derive the spec of a checkpoint, of a family that locum runs or of any other.

        Raises `NotMoEError` for a dense model, `CheckpointError` where files and config disagree, and
        `UnsupportedError` where the experts are there but cannot be made sense of.
        """
        return _derive(checkpoint)

    @property
    def runnable(self) -> bool:
        """Whether locum runs this checkpoint."""
        return self.unrunnable is None

    def require_runnable(self) -> "MoESpec":
        """This spec, when locum runs it. Raises `UnsupportedError` saying why not."""
        if self.unrunnable is not None:
            raise UnsupportedError(self.unrunnable, todo="`locum inspect` still describes it")
        return self

    @property
    def layout(self) -> str:
        """`per-expert` or `fused`, of the first MoE layer."""
        return self.moe[0].layout

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Absolute indices of the MoE layers."""
        return tuple(layer.layer for layer in self.moe)

    @property
    def experts(self) -> tuple[int, ...]:
        """Routed experts of each MoE layer."""
        return tuple(layer.experts for layer in self.moe)

    @property
    def top_k(self) -> tuple[int, ...]:
        """Experts per token of each MoE layer."""
        return tuple(layer.top_k for layer in self.moe)

    @property
    def expert_bytes(self) -> tuple[int, ...]:
        """Stored bytes of one expert of each MoE layer."""
        return tuple(layer.expert_bytes for layer in self.moe)

    @property
    def routed_bytes(self) -> int:
        """Stored bytes of all routed experts."""
        return sum(layer.experts * layer.expert_bytes for layer in self.moe)

    @property
    def active_bytes_per_token(self) -> int:
        """Stored bytes of the routed experts that one token uses."""
        return sum(layer.top_k * layer.expert_bytes for layer in self.moe)

    @property
    def params(self) -> int:
        """Parameters of the model as locum runs it: embeddings included, ignored tensors and towers not."""
        return self.backbone_params + sum(layer.experts * layer.expert_params for layer in self.moe)

    @property
    def active_params(self) -> int:
        """Parameters that one token uses: the backbone and the chosen experts."""
        return self.backbone_params + sum(layer.top_k * layer.expert_params for layer in self.moe)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element of `dtype`."""
        return DTYPE_BYTES[self.dtype]

    @property
    def backbone_bytes_per_token(self) -> int:
        """Bytes of the backbone that one token touches: all but the embedding table, of which it reads a row.

        A table that is the head as well is read whole.
        """
        table = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size * self.dtype_bytes
        return max(0, self.backbone_resident_bytes - table)

    def kv_bytes(self, tokens: int, element: int = 2) -> int:
        """Bytes of the KV cache of one request of `tokens` tokens, with `element` bytes each (2: bf16).

        Layers with a sliding window keep no more than the window.
        """
        return element * sum(layer.elements * layer.tokens(tokens) for layer in self.kv)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes in bf16 that a token adds to the KV cache while no window is full."""
        return self.kv_bytes(1)


def _derive(checkpoint: Checkpoint) -> MoESpec:
    path = checkpoint.config_path
    plain = Reader(checkpoint.config, path)
    family = family_of(plain)
    read = Reader(checkpoint.config, path, family.defaults if family else None)
    layers = _layers(read, checkpoint.tensors)
    experts = _experts(read, layers)
    packed = checkpoint.packed
    tensors: Mapping[str, TensorInfo] = checkpoint.tensors
    if experts and read.whole.get("model_type") in _NUMBERED_ON:
        tensors = numbered_below(tensors, max(experts))
    try:
        every = (
            packed_groups(packed)
            if packed
            else expert_groups(tensors, checkpoint.folder, max(experts) if experts else None)
        )
    except CheckpointError as error:
        if (reason := unrunnable(read, None)) is not None:  # what looks damaged may only be unknown
            raise UnsupportedError(reason, where=checkpoint.folder) from error
        raise
    groups = _main_stack(every, layers)
    wanted = expected_layers(read, family, layers) if family else tuple(group.layer for group in groups)
    if not groups:
        raise _no_experts(read, checkpoint.folder, experts, promised=bool(family and wanted))
    quantization = _quantization(checkpoint, groups)
    stack = groups[0].stack
    if family:
        verify_groups(
            read, family, groups, layers=wanted, experts=experts or [0] * layers, quantization=quantization
        )
        hidden, vocab = read.count(*keys.HIDDEN), read.count("vocab_size")
        verify_backbone(read, checkpoint.tensors, stack, layers=layers, sizes=(vocab, hidden))
    rest = Rest(checkpoint, tensors, groups, layers=layers, stack=stack)
    dtype = _dtype(read, rest.backbone)
    counts = parameter_counts(checkpoint, quantization)
    return MoESpec(
        family=read.name("model_type") or "",
        architecture=_architecture(read),
        layers=layers,
        moe=_moe_layers(read, groups, layers, counts),
        shared_experts=_shared(read, rest.backbone),
        router=router_kind(read, family, correction=rest.has_correction()),
        dtype=dtype,
        quantization=quantization,
        hidden_size=read.count(*keys.HIDDEN),
        vocab_size=read.count("vocab_size"),
        context_length=read.count(*keys.CONTEXT),
        kv=kv_layers(read, family, checkpoint.tensors, stack, layers),
        tied_embeddings=read.flag("tie_word_embeddings") or read.whole.get("tie_word_embeddings") is True,
        remote_code="auto_map" in checkpoint.config,
        backbone_bytes=rest.bytes,
        backbone_params=rest.parameters(counts),
        backbone_resident_bytes=rest.resident(counts, dtype),
        ignored_bytes=rest.ignored_bytes,
        unrunnable=unrunnable(read, None if packed else quantization)
        or _unreadable(checkpoint, groups, quantization),
    )


def _quantization(checkpoint: Checkpoint, groups: tuple[ExpertGroup, ...]) -> str | None:
    if checkpoint.packed is not None:
        precision = checkpoint.packed.precision
        return None if precision in PLAIN else precision
    return quantization_of(checkpoint.config, {piece.dtype for group in groups for piece in group.pieces})


def _unreadable(
    checkpoint: Checkpoint, groups: tuple[ExpertGroup, ...], quantization: str | None
) -> str | None:
    if quantization is None or checkpoint.packed is not None:
        return None
    return unreadable(checkpoint, (name for group in groups for name in group.tensors))


def _layers(read: Reader, tensors: Mapping[str, TensorInfo]) -> int:
    """Layers of the decoder: the config's number, else what its list of kinds or the tensors' names tell."""
    found = read.maybe(*keys.LAYERS, least=1)
    if found is not None:
        if found > len(tensors):  # each has some; also bounds what a senseless number makes us allocate
            raise read.bad(read.first(keys.LAYERS) or "", f"at most the {len(tensors)} tensors in the files")
        return found
    kinds = read.get("layer_types") or read.get("layers_block_type")
    if isinstance(kinds, list):
        return len(kinds)
    places = [place for name in tensors if "experts" in name and (place := layer_of(name))]
    return 1 + max(layer for _, layer in places) if places else read.count(*keys.LAYERS)


def _experts(read: Reader, layers: int) -> list[int] | None:
    """Routed experts of each layer by the config; None where it has none.

    Where it gives a number for text and one for images, that for text.
    """
    key = read.first(keys.EXPERTS)
    found = read.get(key) if key is not None else None
    if isinstance(found, list) and len(found) != layers:
        return [found[0]] * layers if found and type(found[0]) is int and found[0] > 0 else None
    return read.per_layer(keys.EXPERTS, layers)


def _main_stack(groups: tuple[ExpertGroup, ...], layers: int) -> tuple[ExpertGroup, ...]:
    """The decoder's groups: of several stacks (thinker and talker) the one with the most bytes."""
    inside = [group for group in groups if group.layer < layers]
    if not inside:
        return ()
    weight: dict[str, int] = {}
    for group in inside:
        weight[group.stack] = weight.get(group.stack, 0) + group.experts * group.expert_bytes
    stack = max(sorted(weight), key=weight.__getitem__)
    return tuple(group for group in inside if group.stack == stack)


def _no_experts(read: Reader, folder: Path, experts: list[int] | None, *, promised: bool) -> Exception:
    kind = read.name("model_type") or "a model without model_type"
    if promised:
        return CheckpointError(
            "the files hold no routed experts",
            where=folder,
            allowed=f"the {max(experts or [0])} per layer of {kind}",
        )
    if experts and max(experts) > 1 and read.name("model_type") not in ("", None) and family_of(read) is None:
        return UnsupportedError(
            f"the routed experts of {kind} are stored under names that locum does not know",
            where=folder,
            allowed="names with `.experts.`",
        )
    return NotMoEError(
        "a dense model: it has no routed experts to keep on disk",
        where=folder,
        allowed="a Mixture-of-Experts model",
        got=kind,
        todo="Run it with transformers or any other engine",
    )


def _moe_layers(
    read: Reader, groups: tuple[ExpertGroup, ...], layers: int, counts: Mapping[str, int]
) -> tuple[MoELayer, ...]:
    chosen = read.per_layer(keys.TOP_K, layers)
    if chosen is None:
        raise UnsupportedError(
            "the config does not say how many experts a token uses",
            where=read.path,
            allowed=" or ".join(keys.TOP_K),
        )
    found = []
    for group in groups:
        top_k = chosen[group.layer]
        if not 1 <= top_k <= group.experts:
            raise CheckpointError(
                f"experts per token make no sense in layer {group.layer}",
                where=read.path,
                allowed=f"1 to {group.experts}",
                got=top_k,
            )
        found.append(
            MoELayer(
                layer=group.layer,
                module=group.module,
                layout=group.layout,
                experts=group.experts,
                top_k=top_k,
                expert_bytes=group.expert_bytes,
                expert_params=group.params
                if group.params is not None
                else sum(counts[name] for name in group.tensors) // group.experts,
                pieces=tuple((piece.name, piece.length) for piece in group.pieces),
            )
        )
    return tuple(found)


def _shared(read: Reader, backbone: Mapping[str, TensorInfo]) -> int:
    """Shared experts per layer: the config's number, else one where the files hold any."""
    if not any(re.search(r"\.(?:shared?_experts?|shared_mlp)\.", name) for name in backbone):
        return 0
    return read.maybe(*keys.SHARED) or 1


def _dtype(read: Reader, backbone: Mapping[str, TensorInfo]) -> str:
    """What transformers loads in with `dtype="auto"`: the config's dtype, else the first stored float's."""
    for where in (read.text, read.whole):
        for key in ("dtype", "torch_dtype"):
            name = where.get(key)
            if isinstance(name, str) and name.removeprefix("torch.") in DTYPE_BYTES:
                return name.removeprefix("torch.")
    return next((FLOATS[info.dtype] for info in backbone.values() if info.dtype in FLOATS), "bfloat16")


def _architecture(read: Reader) -> str:
    names = read.whole.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""

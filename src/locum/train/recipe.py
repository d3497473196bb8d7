"""What is trained, and how: every number of a training run in one place."""

from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from locum.train.data import END_ID, PAD_ID, VOCABULARY
from locum.train.experts import IMPLEMENTATION

MIX = {
    "python": 0.26, "c": 0.13, "man": 0.11, "docs": 0.14,
    "perl": 0.07, "licences": 0.03, "intl": 0.12, "tasks": 0.14,
}  # fmt: skip
"""Shares of the rows of a batch."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": END_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
}

MODELS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "qwen3_moe",
        **_COMMON,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 64,
        "intermediate_size": 256,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "tiny-shared": {
        "model_type": "deepseek_v3",
        **{key: value for key, value in _COMMON.items() if key != "head_dim"},
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "n_routed_experts": 24,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 64,
        "intermediate_size": 320,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "dense": {"model_type": "qwen3", **_COMMON, "intermediate_size": 256},
}
"""Configs by name. `dense` has as many parameters as `tiny` uses for a token."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run. `lr` is AdamW's peak, `matrix_lr` Muon's; `balance` weighs the load-balancing loss,
    `decay` is the share of the time during which the learning rates fall to nothing.
    """

    model: str = "tiny"
    optimiser: str = "muon"
    lr: float = 3e-3
    matrix_lr: float = 6e-3
    weight_decay: float = 0.1
    warmup: int = 200
    tokens_per_step: int = 4096
    lengths: tuple[int, ...] = (256, 512, 1024)
    """Lengths of the rows, step by step by turns: short ones are cheap, long ones teach what is far away."""
    balance: float = 0.1
    """Weighs the mean over layers, so a tenth of it is about a layer's own."""
    decay: float = 0.2
    seed: int = 0
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the model's config that this run has otherwise."""

    def shape(self, step: int) -> tuple[int, int]:
        """(rows, length of a row) of a step."""
        length = self.lengths[step % len(self.lengths)]
        return self.tokens_per_step // length, length

    def to_json(self) -> dict[str, Any]:
        """All numbers, the model's config included."""
        return asdict(self) | {"config": MODELS[self.model] | self.changes}

    def build(self) -> PreTrainedModel:
        """A fresh model in float32, its weights drawn from `seed`."""
        import torch

        torch.manual_seed(self.seed)
        settings = MODELS[self.model] | self.changes
        kind = settings.pop("model_type")
        config = AutoConfig.for_model(kind, **settings)
        if kind != "qwen3":
            config._experts_implementation = IMPLEMENTATION
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        assert isinstance(model, PreTrainedModel)
        return model


RECIPES = {name: Recipe(model=name) for name in MODELS}
"""The run behind each model."""

"""Architectures with experts that locum does not read out of GGUF files, and why not.

Source: llama.cpp's `convert_hf_to_gguf.py`, and which families transformers 5.23 has.
"""

from collections.abc import Mapping

_DECAY = (
    "its files hold -exp(A_log) of the state's decay as float32, of which A_log cannot be had back to the bit"
)
_NORMS = (
    "its files hold the weights of norms with one added, of which small ones cannot be had back to the bit"
)
_UNKNOWN = "transformers 5.23 has no such family with experts"
_EYES = "transformers 5.23 loads it only together with its eyes, which the file lacks"
_DIFFUSION = "it writes text by diffusion, not token by token"
_EMBEDS = "it embeds text and writes none"

REFUSED: Mapping[str, str] = {
    "arctic": _UNKNOWN,
    "bailingmoe": _UNKNOWN,
    "bailingmoe2": _UNKNOWN,
    "deci": _UNKNOWN,
    "deepseek": _UNKNOWN,
    "deepseek2-ocr": _EYES,
    "gemma4": "the positions of its full layers are factors that only a tensor of the file holds",
    "granitehybrid": _DECAY,
    "grok": _UNKNOWN,
    "grovemoe": _UNKNOWN,
    "jamba": _DECAY,
    "kimi-linear": _DECAY,
    "llada-moe": _DIFFUSION,
    "llama-embed": _EMBEDS,
    "minicpm": _UNKNOWN,
    "mistral3": "transformers 5.23 knows no model of it with experts",
    "mistral4": _EYES,
    "nemotron_h_moe": _DECAY,
    "nomic-bert-moe": _EMBEDS,
    "phimoe": "it stretches positions by factors, and by two multipliers that the file does not hold",
    "qwen35moe": _DECAY,
    "qwen3next": _DECAY,
    "rnd1": _DIFFUSION,
    "smallthinker": _UNKNOWN,
    "step35": _NORMS,
}
"""By llama.cpp's name."""

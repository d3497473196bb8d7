"""Which families locum runs: by `model_type` of the whole config, as transformers 5.23 calls them.

Every name in `CHECKED` is there because a tiny model of it, with every feature that the family has switched
on, gives transformers' own bits (tests/engine/test_families.py, docs/families.md; for llama4 those of a
product with as many rows).
"""

from collections.abc import Mapping

CHECKED = frozenset(
    {
        "afmoe", "aria", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "dbrx", "deepseek_ocr2",
        "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note", "ernie4_5_moe",
        "ernie4_5_vl_moe", "exaone_moe", "flex_olmo", "flint", "gemma4", "glm4_moe", "glm4_moe_lite",
        "glm4v_moe", "glm5_next", "glm_moe_dsa", "gpt_oss", "granitemoe", "granitemoe_swa",
        "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling2",
        "inkling_mm_model", "jamba", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "llama4",
        "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl", "mistral3",
        "mistral_large4", "mixtral", "muse_spark", "nemotron_h", "olmoe", "phimoe", "qwen2_moe",
        "qwen3_5_moe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp",
        "solar_open", "step3p7", "unlimited_ocr", "zaya",
    }
)  # fmt: skip
"""Families that are run."""

UNSUPPORTED: Mapping[str, str] = {
    "diffusion_gemma": "it writes text by block diffusion, not token by token",
    "openai_privacy_filter": "it labels tokens and has no head that generates text",
    "jetmoe": "its attention is a mixture of experts as well, without a common interface",
    "switch_transformers": "an encoder and decoder whose experts have no common interface",
    "nllb_moe": "an encoder and decoder whose experts have no common interface",
    "doge": "its experts are rows of embeddings, too small to be read one by one",
}
"""Families that are not, and why."""

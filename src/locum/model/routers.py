"""How routers turn logits into scores, by family: for the description, not for running them.

Source: the router classes of transformers 5.23.
"""

from locum.model.config import Reader
from locum.model.families import Family

_SOFTMAX = [
    "aria",
    "dbrx",
    "deepseek_ocr2",
    "deepseek_v2",
    "ernie4_5_moe",
    "ernie4_5_vl_moe",
    "flex_olmo",
    "gemma4",
    "hunyuan_v1_moe",
    "jamba",
    "longcat_flash",
    "mellum",
    "minimax",
    "mistral4",
    "mistral_large4",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_next",
    "qwen3_omni_moe",
    "qwen3_omni_moe_thinker",
    "qwen3_vl_moe",
    "zaya",
]
_SOFTMAX_AFTER = [
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
    "jetmoe",
    "openai_privacy_filter",
]
_SIGMOID_OTHERS = [
    "afmoe",
    "axk1",
    "axk2",
    "bailing_hybrid",
    "beam",
    "deepseek_v32",
    "dots1",
    "exaone_moe",
    "flint",
    "glm4_moe_lite",
    "glm4v_moe",
    "glm5_next",
    "glm_moe_dsa",
    "hy_v3",
    "hy_v4",
    "inkling",
    "kimi_linear",
    "kolibri1",
    "lfm2_moe",
    "llama4",
    "mimo_v2_flash",
    "minimax_m2",
    "nemotron_h",
    "solar_open",
    "step3p5",
]
_OTHER_ROUTERS = {
    **dict.fromkeys(_SOFTMAX, "softmax"),
    **dict.fromkeys(_SOFTMAX_AFTER, "softmax-after-topk"),
    **dict.fromkeys(_SIGMOID_OTHERS, "sigmoid"),
}


def router_kind(read: Reader, family: Family | None, *, correction: bool) -> str:
    """How the router scores and selects: `softmax`, `softmax-after-topk` or `sigmoid`.

    Then `+bias` when a bias takes part in the selection only, and `+groups` when experts are first limited to
    the best groups.

    `correction`: the files hold such a bias. `unknown` where neither transformers nor the config tells.
    """
    if family is not None:
        kind = family.router
    else:
        name = (read.name("model_type") or "").removesuffix("_text")
        scoring = _OTHER_ROUTERS.get(name) or read.get("scoring_func") or read.get("score_func")
        kind = (scoring if isinstance(scoring, str) else "unknown") + ("+bias" if correction else "")
    limited = family is None or "sigmoid" in kind
    groups = read.get("n_group") if limited else None
    return kind + ("+groups" if type(groups) is int and groups > 1 else "")

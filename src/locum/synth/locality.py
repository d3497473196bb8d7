"""The locality dial: random weights whose router chooses as uniformly, or as much like before, as one asks.

Words of the vocabulary belong to topics, word v to topic v mod T. A topic is an axis of the residual stream:
the embedding of its words is A there and 0 on the other T - 1 axes. Nothing in a layer writes to these axes,
so the topic of a token is there at every depth. The router reads it: on the topic axes its rows are normal
with such a scale that `gamma` is the standard deviation of what the topic adds to a logit, over that of what
the rest of the token adds. The head reads it too, so that text sampled at temperature 1 stays on its topic
with probability 0.98 at each step. gamma 0 is uniform routing: a token chooses as if no other had been.

For that, the rest of a token must be its own. Embeddings are large, and what layers add is kept small: their
outputs are scaled so that all of them together add less than half to the variance of an embedding. Attention
in particular brings the same average of the text to neighbouring tokens, which makes them choose alike.

All these tensors use the stream of random numbers alike for every gamma: two checkpoints of one seed differ
in their routers' rows and nowhere else.

Axes: V vocabulary, H hidden, E experts, T topics, L layers.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.errors import UnsupportedError, UsageError
from locum.synth.names import Config, TensorSpec
from locum.synth.noise import Edit, Encode, Rows, scale

TOPICS = 32
STAY = 0.98
"""Probability that the next token of sampled text has this token's topic."""
MOST = 8.0
"""The largest gamma: more changes nothing, the topic alone decides."""
_AMPLITUDE = 8.0
FAMILIES = {
    **dict.fromkeys(("olmoe", "qwen3_moe", "mixtral", "minimax_m2"), 0.1),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "dots1", "glm4_moe"), 0.4),
    "qwen2_moe": 0.15,
    "gpt_oss": 0.25,
}
"""Families for which a test has measured that the dial does what it says, and the variance that all their
layers together add to an embedding's 1: a gate of silu times a linear part gives 0.36, an expert's weight
takes most of it away, but not from shared experts and dense layers; gpt-oss adds 1 to the linear part.
"""
_WEIGHTS = {
    "deepseek_v2": (1.0, False),
    "deepseek_v3": (2.5, True),
    "dots1": (1.0, False),
    "glm4_moe": (1.0, True),
}
"""transformers' defaults: what experts' weights are multiplied by, and whether they sum to 1 before that."""
_SMALL = 1e-3
"""Deviation of what all tokens get alike: biases of the choice, and biases added to the residual stream."""
_HEAD_SPREAD = 0.5
"""Deviation of a logit within a topic: with more, text would consist of fewer words, which come again."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_ROUTER = (".gate.weight", ".router.weight")
_SELECTION = (".router.bias", "e_score_correction_bias")
_ATTENTION = (".o_proj.weight",)
_FEED_FORWARD = (".down_proj.weight", ".w2.weight", ".experts.down_proj")
_OUTER_BIAS = (".o_proj.bias", ".down_proj_bias", ".down_proj.bias")
_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Dial:
    """The scales and the edits of one checkpoint's tensors, all determined by the config and gamma."""

    gamma: float
    hidden: int
    layers: int
    added: float
    routed: float = 1.0
    """What the experts' weights sum to, if more than 1: their matrices are made smaller by as much."""

    @classmethod
    def of(cls, config: Config, gamma: float) -> "Dial":
        """The dial of a checkpoint with this config.

        Raises `UsageError` for a gamma out of range, `UnsupportedError` where the method does not hold.
        """
        if not 0 <= gamma <= MOST:
            raise UsageError("no such locality", allowed=f"0 (uniform) to {MOST:g}", got=gamma)
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UnsupportedError(
                "the locality of this family's routing cannot be set, because nothing has shown that its "
                "layers keep a token's topic",
                allowed=", ".join(sorted(FAMILIES)),
                got=repr(family),
                todo="Leave --locality out, and its routing is what random weights give",
            )
        if config.get("tie_word_embeddings"):
            raise UnsupportedError(
                "the locality of a model with tied embeddings cannot be set: with random weights it repeats "
                "its last token for ever",
                where="tie_word_embeddings",
                todo="Set it to false in the config, or leave --locality out",
            )
        size, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        return cls(float(gamma), size, layers, FAMILIES[family], _weights_sum(family, config))

    @property
    def topics(self) -> int:
        """T, at most a quarter of the hidden size."""
        return max(1, min(TOPICS, self.hidden // 4))

    @property
    def amplitude(self) -> float:
        """A: what a token's embedding is on the axis of its topic, a small part of the whole also where H is
        small.
        """
        return min(_AMPLITUDE, float(self.hidden**0.5) / 4)

    def _rms(self, depth: float) -> float:
        """Root mean square of the residual stream after this share of the layers."""
        rest = (1 - self.topics / self.hidden) * (1 + self.added * depth)
        return float((rest + self.amplitude**2 / self.hidden) ** 0.5)

    @property
    def pull(self) -> float:
        """What the head's rows are on the axis of their topic.

        T - 1 topics share what is left: stay = e^b / (e^b + T - 1), b = pull * A / rms.
        """
        odds = STAY / (1 - STAY) * max(1, self.topics - 1)
        return math.log(odds) * self._rms(1.0) / self.amplitude

    def router_scale(self, layer: int) -> float:
        """Standard deviation of the router's rows on the topic axes.

        The rest of a row has deviation 1 / sqrt(H) on H - T axes where the token has deviation
        sqrt(1 + added), and a topic's part is this times A: their ratio is gamma.
        """
        rest = (1 - self.topics / self.hidden) * (1 + self.added * (layer + 0.5) / self.layers)
        return self.gamma * float(rest**0.5) / self.amplitude

    def scale(self, tensor: TensorSpec) -> tuple[float, float]:
        """(mean, standard deviation) of a tensor's random numbers, before any edit."""
        name, added = tensor.name, self.layers**-0.5
        if name == _EMBEDDING:
            return 0.0, 1.0
        if name.endswith(_SELECTION + _OUTER_BIAS):
            return 0.0, _SMALL
        gains = {(_HEAD,): _HEAD_SPREAD, _ATTENTION: min(0.1, added / 2), _FEED_FORWARD: added}
        gain = next((gain for endings, gain in gains.items() if name.endswith(endings)), None)
        if gain is None:
            return scale(tensor)
        return 0.0, gain / tensor.fan_in**0.5 / (self.routed if tensor.is_expert else 1)

    def editor(self, tensor: TensorSpec, random: np.random.Generator) -> Edit | None:
        """Topic axes set in what reads a topic, and silenced in what writes to the residual stream."""
        name = tensor.name
        if name == _EMBEDDING:
            return self._one_topic(self.amplitude)
        if name == _HEAD:
            return self._one_topic(self.pull)
        if name.endswith(_ROUTER) and len(tensor.shape) == 2:
            found = _LAYER.search(name)
            assert found is not None, "a router outside a layer"
            drawn_ET = random.standard_normal((tensor.shape[0], self.topics), dtype=np.float32)
            return self._reading(drawn_ET * np.float32(self.router_scale(int(found[1]))))
        if name.endswith(_ATTENTION + _FEED_FORWARD) and len(tensor.shape) == 2:
            return self._silent_rows
        if name.endswith(_FEED_FORWARD + _OUTER_BIAS):
            return self._silent_columns
        return None

    def _one_topic(self, value: float) -> Edit:
        def edit(rows: Rows, first: int, encode: Encode) -> None:
            rows[:, : self.topics] = 0
            word = np.arange(len(rows))
            rows[word, (first + word) % self.topics] = encode(np.array([value], dtype=np.float32))[0]

        return edit

    def _reading(self, topic_ET: NDArray[np.float32]) -> Edit:
        def edit(rows: Rows, first: int, encode: Encode) -> None:
            part = topic_ET[first : first + len(rows)]
            rows[:, : self.topics] = encode(part.reshape(-1)).reshape(part.shape)

        return edit

    def _silent_rows(self, rows: Rows, first: int, encode: Encode) -> None:
        """[H, in]: an output that is not written to is a row of zeros."""
        rows[: max(0, self.topics - first)] = 0

    def _silent_columns(self, rows: Rows, first: int, encode: Encode) -> None:
        """[..., H]: transposed matrices and biases."""
        rows[:, : self.topics] = 0


def _weights_sum(family: str, config: Config) -> float:
    """About what the weights of a token's experts sum to, at least 1."""
    if family not in _WEIGHTS:
        return 1.0
    factor, normal = _WEIGHTS[family]
    factor = float(config.get("routed_scaling_factor") or factor)
    if not config.get("norm_topk_prob", normal):
        # the best of many sigmoids are about 0.75 each; the best of a softmax hold about a quarter of it
        factor *= 0.25 if family == "deepseek_v2" else 0.75 * int(config["num_experts_per_tok"])
    return max(1.0, factor)

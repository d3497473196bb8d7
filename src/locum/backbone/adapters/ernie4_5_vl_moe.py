"""Ernie 4.5 VL: every MoE layer has experts for text and others for images, numbered on in the files.

Those for images, and the weights of their router, are left out: text never goes there. Of the router stays a
bias that lies with the text router's in one tensor.
"""

from typing import Any

from torch import nn

from locum.backbone.experts import Way
from locum.backbone.text_only import LeftOut


def adapt(block: Any) -> None:
    """Adapt an `Ernie4_5_VLMoeMoeBlock`."""
    images, gate = block.vision_moe, nn.Module()
    gate.moe_statics = images.gate.moe_statics
    block.text_moe.experts.locum_way = Way(beyond=images.num_experts)
    block.vision_moe = LeftOut("the experts for images")
    block.vision_moe.gate = gate

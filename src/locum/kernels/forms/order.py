"""Which group of scales each input belongs to, where the files say so (`g_idx`). Axis: I inputs."""

import torch
from torch import Tensor


def group_of_each(order_I: Tensor | None, inputs: int, groups: int) -> Tensor | None:
    """`order_I` if it is one, None where the groups follow one another, each as long as the others.

    That is what -1 means as well: compressed-tensors sets all to it and fills in an order if there is one.
    Raises `ValueError` for groups that are not there.
    """
    if order_I is not None and order_I.is_meta:  # a trial, which sees no numbers
        return order_I.long()
    low, high = (-1, -1) if order_I is None else map(int, torch.aminmax(order_I))
    if low < -1 or high >= groups:
        raise ValueError(f"g_idx names groups {low} to {high}, where there are {groups}")
    if low >= 0 and order_I is not None:
        return order_I.long()
    if not groups or inputs % groups:
        raise ValueError(f"{groups} groups of scales do not divide {inputs} inputs")
    return None

"""Class attention to many copies of one location, at the cost of one.

Softmax over a class token and N equal vectors is softmax over the class token and one of them, whose score has log N
added: exact, and N times cheaper than the copies.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class WeightedClassAttention(nn.Module):
    """timm's class attention (CaiT's and XCiT's, or VOLO's), over a class token and one location of some weight."""

    def __init__(self, attention: Any, count: int) -> None:
        super().__init__()
        self.attention = attention
        self.log_count = math.log(count)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 2, D), class token first, to the class token's (B, 1, D)."""
        own = self.attention
        query = self._heads(own.q(tokens[:, :1]))
        keys, values = own.kv(tokens).chunk(2, dim=-1) if hasattr(own, "kv") else (own.k(tokens), own.v(tokens))
        # In float32, as the fused attention sums: log N would lose what the scores differ by in half precision.
        scores = (query.float() * self._heads(keys).float()).sum(-1) * own.scale
        values = self._heads(values)
        weight = torch.sigmoid(scores[:, 1] + self.log_count - scores[:, 0])[:, :, None].to(values.dtype)
        mixed: Tensor = own.proj(torch.lerp(values[:, 0], values[:, 1], weight).flatten(1))
        return mixed[:, None]

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.attention.num_heads, -1)


def weighted_twin(model: nn.Module, count: int) -> nn.Module:
    """A copy of a model that shares its weights, and whose class attention weighs a single location `count` times."""
    twin = shared_copy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child).__name__ in ("ClassAttn", "ClassAttention"):
                setattr(module, name, WeightedClassAttention(child, count))
    return twin


def shared_copy(model: nn.Module) -> nn.Module:
    """The same modules anew, with the same tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)

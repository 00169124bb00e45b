"""The AlignScore network's forward pass for training: bfloat16 blocks of pairs of like length.

Computes what `AlignModel` computes with frozen embeddings and no dropout, four times faster on a
CPU with AMX: the weights are cast once a step (gradients reach the float32 originals), query, key
and value are one product, nothing is autocast, and the last layer is computed for first tokens
alone. Knows a BERT encoder's weights; not texts, losses or optimisers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.metrics.align_model import AlignLogits, AlignModel

# A finite number that bfloat16 holds: minus infinity would turn a row of padding into NaN.
_MASKED = -30000.0


class BlockNetwork:
    """`AlignModel` on blocks, differentiable in all its parameters but the embeddings.

    Args:
        model: with a BERT encoder; its parameters stay where they are and get the gradients.
        dtype: of the products; float32 gives the module's own numbers.
    """

    def __init__(self, model: AlignModel, dtype: torch.dtype = torch.bfloat16) -> None:
        self.model, self.dtype = model, dtype
        encoder: Any = model.base_model
        self.layers: list[Any] = list(encoder.encoder.layer)
        self.heads = int(encoder.config.num_attention_heads)

    def __call__(self, ids: Tensor, types: Tensor, lengths: Tensor) -> AlignLogits:
        """Logits of a block.

        Args:
            ids: token ids, (pairs, longest), anything behind a pair's length.
            types: token types likewise.
            lengths: tokens of each pair, (pairs,), at least 1.
        """
        encoder: Any = self.model.base_model
        with torch.no_grad():
            x = encoder.embeddings(input_ids=ids, token_type_ids=types).to(self.dtype)
            behind = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
            mask = (behind * _MASKED).to(self.dtype)[:, None, None, :] if behind.any() else None
        for layer in self.layers[:-1]:
            x = self._layer(layer, x, mask, first_only=False)
        first = self._layer(self.layers[-1], x, mask, first_only=True)[:, 0]
        pooled = torch.tanh(self._linear(encoder.pooler.dense, first)).float()
        heads = (self.model.bin_layer, self.model.tri_layer, self.model.reg_layer)
        return AlignLogits(*(head(pooled) for head in heads))

    def _low(self, *parameters: Tensor) -> Tensor:
        joined = parameters[0] if len(parameters) == 1 else torch.cat(parameters)
        return joined.to(self.dtype)

    def _linear(self, module: Any, x: Tensor) -> Tensor:
        return functional.linear(x, self._low(module.weight), self._low(module.bias))

    def _norm(self, module: Any, x: Tensor) -> Tensor:
        weight, bias = self._low(module.weight), self._low(module.bias)
        return functional.layer_norm(x, weight.shape, weight, bias, module.eps)

    def _layer(self, layer: Any, x: Tensor, mask: Tensor | None, *, first_only: bool) -> Tensor:
        """(pairs, tokens, hidden) -> the same, or (pairs, 1, hidden) with `first_only`."""
        own, after = layer.attention.self, layer.attention.output
        pairs, tokens, hidden = x.shape
        size = hidden // self.heads
        # The scale goes into the weights: they are smaller than any block.
        scale = size**-0.5
        kept = x[:, :1] if first_only else x
        query_weight, query_bias = own.query.weight * scale, own.query.bias * scale
        weights, biases = [own.key.weight, own.value.weight], [own.key.bias, own.value.bias]
        if not first_only:
            weights, biases = [query_weight, *weights], [query_bias, *biases]
        joined = functional.linear(x, self._low(*weights), self._low(*biases))
        *rest, key, value = joined.view(pairs, tokens, len(weights), self.heads, size).unbind(2)
        if first_only:
            query = functional.linear(kept, self._low(query_weight), self._low(query_bias))
            query = query.view(pairs, 1, self.heads, size)
        else:
            (query,) = rest
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)
        if mask is not None:
            scores = scores + mask
        mixed = (scores.softmax(-1) @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
        x = self._norm(after.LayerNorm, kept + self._linear(after.dense, mixed))
        wide = functional.gelu(self._linear(layer.intermediate.dense, x))
        return self._norm(layer.output.LayerNorm, x + self._linear(layer.output.dense, wide))

"""BERT-shaped encoders on a CPU without padding, in fused kernels, with the same numbers.

Takes the weights of a BERT, RoBERTa or XLM-RoBERTa module and runs them on packed tokens: all
sequences of a batch one after the other, (tokens, hidden), so no work is spent on padding and
no mask is needed. Every matrix product goes through oneDNN with its weights laid out once at
the start, and takes its bias, its GELU or its residual addition along. Knows no tokenizer, no
batching and no metric. docs/performance.md has what each step gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Token counts are rounded up to this. oneDNN keeps a compiled product for each shape it has met,
# some MiB each: any count at all would cost a replica hundreds of MiB, and gain nothing.
_STEP = 32
# Their layers differ in names of classes alone, and their embeddings in how positions count.
_KINDS = frozenset({"BertModel", "RobertaModel", "XLMRobertaModel"})
_onednn: Any = torch.ops.mkldnn

# (token ids (tokens,), token types or None, tokens of each sequence) -> the module's output.
PackedForward = Callable[[Tensor, Tensor | None, Sequence[int]], Any]


class _Linear:
    """x @ weight.T + bias for (tokens, in), plain or with what follows it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.detach().contiguous(), bias.detach().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (by erf) of the product."""
        return functional.gelu(self(x))

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The product plus `residual`."""
        return self(x) + residual


class _FusedLinear(_Linear):
    """The same as one oneDNN primitive each, the weights in the layout it asks for."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight, bias)
        self.weight = _onednn._reorder_linear_weight(self.weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _onednn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result

    def gelu(self, x: Tensor) -> Tensor:
        result: Tensor = _onednn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return result

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        result: Tensor = _onednn._linear_pointwise.binary(
            x, residual, self.weight, self.bias, "add"
        )
        return result


def _linear_kind(dtype: torch.dtype) -> type[_Linear]:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    fused = available and hasattr(_onednn, "_linear_pointwise")
    if dtype == torch.bfloat16:
        fused = fused and _onednn._is_mkldnn_bf16_supported()
    return _FusedLinear if fused and dtype in (torch.float32, torch.bfloat16) else _Linear


class _Norm:
    """Layer normalisation over the last dimension."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer:
    """One encoder layer. `runs` are (sequences, tokens of each) side by side in the batch."""

    def __init__(self, layer: Any, heads: int, kind: type[_Linear]) -> None:
        self.heads = heads
        own = layer.attention.self
        self._take_attention([own.query, own.key, own.value], kind)
        after = layer.attention.output
        self.attended = kind(after.dense.weight, after.dense.bias)
        self.attended_norm = _Norm(after.LayerNorm)
        self.widen = kind(layer.intermediate.dense.weight, layer.intermediate.dense.bias)
        self.narrow = kind(layer.output.dense.weight, layer.output.dense.bias)
        self.norm = _Norm(layer.output.LayerNorm)

    def _take_attention(self, parts: list[nn.Linear], kind: type[_Linear]) -> None:
        self.query_key_value = _joined(parts, kind)

    def __call__(self, x: Tensor, starts: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden)."""
        projected, size = self.query_key_value(x), x.shape[1] // self.heads
        pieces = []
        at = 0
        for count, length in runs:
            block = projected[at : at + count * length].view(count, length, 3, self.heads, size)
            query, key, value = block.permute(2, 0, 3, 1, 4)
            pieces.append(_attend(query, key, value))
            at += count * length
        return self._rest(_cat(pieces), x)

    def _rest(self, mixed: Tensor, x: Tensor) -> Tensor:
        x = self.attended_norm(self.attended.plus(mixed, x))
        return self.norm(self.narrow.plus(self.widen.gelu(x), x))


class _FirstTokenLayer(_Layer):
    """A last layer of which only first tokens are read: nothing else is computed."""

    def _take_attention(self, parts: list[nn.Linear], kind: type[_Linear]) -> None:
        self.query = _joined(parts[:1], kind)
        self.key_value = _joined(parts[1:], kind)

    def __call__(self, x: Tensor, starts: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """(tokens, hidden) -> (sequences, hidden)."""
        first = x[starts]
        queries, projected = self.query(first), self.key_value(x)
        size = x.shape[1] // self.heads
        pieces = []
        at = row = 0
        for count, length in runs:
            block = projected[at : at + count * length].view(count, length, 2, self.heads, size)
            key, value = block.permute(2, 0, 3, 1, 4)
            query = queries[row : row + count].view(count, self.heads, 1, size)
            pieces.append(_attend(query, key, value))
            at += count * length
            row += count
        return self._rest(_cat(pieces), first)


def _joined(parts: list[nn.Linear], kind: type[_Linear]) -> _Linear:
    return kind(
        torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    )


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(sequences, heads, tokens, size) each -> (sequences x tokens, heads x size)."""
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(0, 1).flatten(1)


def _cat(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class PackedEncoder:
    """A supported encoder on packed tokens; see `supports`.

    It shares the module's embeddings and copies its other weights: changing the module's layers
    later changes nothing here.

    Args:
        model: a module `supports` accepts, on the CPU in its final dtype.
        first_only: give the last layer's states of each sequence's first token alone.
    """

    def __init__(self, model: Any, *, first_only: bool = False) -> None:
        kind = _linear_kind(model.dtype)
        heads = model.config.num_attention_heads
        self._embeddings = model.embeddings
        # RoBERTa counts positions from behind its padding index, and padding tokens not at all.
        self._padding = None
        if hasattr(model.embeddings, "create_position_ids_from_input_ids"):
            self._padding = model.embeddings.padding_idx
        layers = list(model.encoder.layer)
        kinds: list[type[_Layer]] = [_Layer] * len(layers)
        self._first_only = first_only
        self._pick = first_only and not layers
        if first_only and layers:
            kinds[-1] = _FirstTokenLayer
        self._layers = [own(layer, heads, kind) for own, layer in zip(kinds, layers, strict=True)]

    @torch.inference_mode()
    def __call__(self, ids: Tensor, types: Tensor | None, lengths: Sequence[int]) -> Tensor:
        """Last hidden states, (tokens, hidden), or (sequences, hidden) with `first_only`.

        Args:
            ids: token ids of all sequences one after the other, (tokens,), int64.
            types: token types likewise, or None for all zeros.
            lengths: tokens of each sequence, at least 1 each, `sum(lengths) == tokens`. Equal
                lengths side by side are attended to in one call.
        """
        tokens, rows = len(ids), len(lengths)
        types = torch.zeros_like(ids) if types is None else types
        if extra := -tokens % _STEP:
            # A sequence more, that nobody reads.
            ids, types = functional.pad(ids, (0, extra)), functional.pad(types, (0, extra))
            lengths = [*lengths, extra]
        sizes = torch.tensor(lengths)
        starts = sizes.cumsum(0) - sizes
        x = self._embeddings(
            input_ids=ids[None],
            token_type_ids=types[None],
            position_ids=self._positions(ids, starts, sizes)[None],
        )[0]
        runs = [(len(list(group)), length) for length, group in groupby(lengths)]
        for layer in self._layers:
            x = layer(x, starts, runs)
        if self._pick:
            x = x[starts]
        return x[:rows] if self._first_only else x[:tokens]

    def _positions(self, ids: Tensor, starts: Tensor, sizes: Tensor) -> Tensor:
        if self._padding is None:
            return torch.arange(len(ids)) - starts.repeat_interleave(sizes)
        counted = (ids != self._padding).long()
        total = counted.cumsum(0)
        before = (total[starts] - counted[starts]).repeat_interleave(sizes)
        return (total - before) * counted + self._padding


def supports(model: Any) -> bool:
    """Whether `PackedEncoder` computes what this module computes."""
    if type(model).__name__ not in _KINDS:
        return False
    config = model.config
    return (
        config.hidden_act == "gelu"
        and not config.is_decoder
        and not config.add_cross_attention
        and getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        and bool(model.device.type == "cpu")
    )


def packed_form(model: Any) -> PackedForward | None:
    """What runs `model` on packed tokens, or None where the module itself must.

    A module around an encoder may bring its own form as `packed()`.
    """
    own = getattr(model, "packed", None)
    form: PackedForward | None = own() if own else None
    if form is not None or own:
        return form
    return PackedEncoder(model) if supports(model) else None

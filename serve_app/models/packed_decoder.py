"""Runs Llama-shaped decoders on a CPU without padding: rows of any length in one pass.

Takes the weights of a Llama, Mistral, Qwen or Gemma 3 model by name and runs them on packed tokens:
the new tokens of all rows one after the other, (tokens, hidden), each row with keys and values of
its own. Joined projections, weights laid out once for the kernels, and few calls between them:
transformers' modules take 19 ms a pass of 28 layers, which is a tenth of the time of a 3 B model.
Residuals, attention, keys and values are float32. Knows no tokenizer, no sampling and no files.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from serve_app.core.errors import ConfigError
from serve_app.models.quantised import Product, Quantised, Table, product

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})
"""Values of `model_type` that can be packed."""

# Their frequencies depend on the longest row of a pass.
_CHANGING_ROTARIES = frozenset({"dynamic", "longrope"})
_EXACT_COUNTS = (1, 2, 4, 8, 16)
_STEP = 32  # oneDNN keeps compiled products for each number of tokens: only these are used

# A pass reads all weights however many tokens share it, until its products take longer than that.
# int8 has two rows a token, and int4's kernel computes for longer from the second token on.
_FREE_TOKENS = {"float32": 8, "bfloat16": 16, "int8": 8, "int4": 4}

Weights = Callable[[str], Tensor | Quantised]
"""Gives a weight of the transformers model by its name there."""


def can_pack(config: Any) -> bool:
    """Whether a transformers configuration is of a decoder that can be packed."""
    return config.model_type in FAMILIES and not (
        _rotary_kinds(config) & _CHANGING_ROTARIES
        or getattr(config, "attn_logit_softcapping", None)
        or getattr(config, "use_bidirectional_attention", False)
        or getattr(config, "mlp_bias", False)
    )


def _rotary_kinds(config: Any) -> set[Any]:
    """Kinds of rotary positions in a configuration, of all kinds of layers."""
    found = getattr(config, "rope_parameters", None) or {}
    parts = [found, *(one for one in found.values() if isinstance(one, dict))]
    return {part.get("rope_type") for part in parts}


class RowKeys:
    """Keys and values of one row: (layers, 2, heads, columns, width), and how many are in use."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.length = 0

    def copy(self) -> RowKeys:
        """A row of its own with the same content."""
        other = RowKeys(torch.empty_like(self.buffer))
        other.buffer[..., : self.length, :] = self.buffer[..., : self.length, :]
        other.length = self.length
        return other


class PackedDecoder:
    """A causal language model for inference.

    Args:
        config: the transformers configuration; `can_pack` holds.
        weights: its weights.
        precision: of the products: float32, bfloat16, int8 or int4.
        generation_config: of transformers; kept for who asks.

    Raises:
        ConfigError: a weight has another shape than the configuration says.
    """

    def __init__(
        self, config: Any, weights: Weights, precision: str, generation_config: Any = None
    ) -> None:
        self.config, self.generation_config = config, generation_config
        self.precision = precision
        self.device = torch.device("cpu")
        self.free_tokens = _FREE_TOKENS[precision]
        """Tokens of a pass that cost about as much as one."""
        with torch.device("meta"):
            frame = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        base = frame.model
        weights = _checked(weights, frame)
        self.rotary = type(base.rotary_emb)(config)
        self.layer_types = tuple(
            getattr(config, "layer_types", None) or ["full_attention"] * len(base.layers)
        )
        self._typed_rotary = config.model_type == "gemma3_text"
        self.kv_shape = (len(base.layers), 2, config.num_key_value_heads)
        self.head_width = int(base.layers[0].self_attn.head_dim)
        self.vocabulary = int(config.vocab_size)
        table = weights("model.embed_tokens.weight")
        self.embed = Table(table, precision)
        self.embed_scale = math.sqrt(config.hidden_size) if self._typed_rotary else 1.0
        self.layers = []
        for index, layer in enumerate(base.layers):
            self.layers.append(_Layer(layer, f"model.layers.{index}.", weights, precision, config))
            _return_memory()
        self.norm = _norm(base.norm, "model.norm.", weights, config)
        if not config.tie_word_embeddings:
            table = weights("lm_head.weight")
        # The head decides between tokens of nearly equal probability, so it is never int4.
        self.head = product([table], [], "int8" if precision == "int4" else precision)

    def get_input_embeddings(self) -> Table:
        """Its table of tokens, as transformers' modules call it."""
        return self.embed

    def new_row(self, columns: int) -> RowKeys:
        """Room for a row of so many tokens; its pages are used as it is written."""
        return RowKeys(torch.empty((*self.kv_shape, columns, self.head_width)))

    def __call__(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[RowKeys], keep: Sequence[int]
    ) -> Tensor:
        """Adds new tokens to rows.

        Args:
            tokens: of each row, perhaps none.
            rows: where they go; a row must have the room.
            keep: of how many of its last new tokens each row wants the logits.

        Returns:
            Logits (sum of keep, vocabulary), float32, row after row.
        """
        counts = [len(one) for one in tokens]
        total = sum(counts)
        padded = next((n for n in _EXACT_COUNTS if n >= total), -(-total // _STEP) * _STEP)
        ids = torch.zeros(padded, dtype=torch.long)
        positions = torch.zeros(padded, dtype=torch.long)
        spans: list[_Span] = []
        wanted: list[int] = []
        at = 0
        for one, row, count, last in zip(tokens, rows, counts, keep, strict=True):
            if count:
                ids[at : at + count] = torch.tensor(one)
                positions[at : at + count] = torch.arange(row.length, row.length + count)
                spans.append(_Span(row, at, count))
            at += count
            wanted += range(at - last, at)
        x = self.embed(ids)
        if self.embed_scale != 1.0:
            x.mul_(self.embed_scale)
        rotations = {kind: self._rotation(kind, positions) for kind in set(self.layer_types)}
        for index, (layer, kind) in enumerate(zip(self.layers, self.layer_types, strict=True)):
            x = layer(x, index, spans, rotations[kind])
        for span in spans:
            span.row.length += span.count
        if not wanted:
            return x.new_empty((0, self.vocabulary))
        kept = self.norm(x[torch.tensor(wanted)])
        rounded = next((n for n in _EXACT_COUNTS if n >= len(kept)), len(kept))
        return self.head(functional.pad(kept, (0, 0, 0, rounded - len(kept))))[: len(kept)]

    def _rotation(self, kind: str, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (tokens, 1, width); sines signed for `_rotate`."""
        example = torch.empty(0)
        kinds = (kind,) if self._typed_rotary else ()
        cos, sin = self.rotary(example, positions.unsqueeze(0), *kinds)
        sin = sin[0].clone()
        sin[:, : sin.shape[1] // 2].neg_()
        return cos[0].unsqueeze(1), sin.unsqueeze(1)


def _return_memory() -> None:
    """Gives freed memory back to the system.

    glibc keeps blocks of up to 32 MB, between those in use: half as much again as int8 takes.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class _Span:
    """The new tokens of one row in a pass, and the masks of its attention."""

    def __init__(self, row: RowKeys, at: int, count: int) -> None:
        self.row, self.at, self.end, self.count = row, at, at + count, count
        self._masks: dict[int | None, Tensor] = {}

    def write(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Adds (heads, new, width) to the row's; all of them, (2, heads, columns, width)."""
        buffer, stop = self.row.buffer[layer], self.row.length + self.count
        buffer[0, :, self.row.length : stop] = keys
        buffer[1, :, self.row.length : stop] = values
        return buffer[:, :, :stop]

    def mask(self, window: int | None, groups: int) -> Tensor:
        """What each query adds to its scores: (groups * new, columns); made once a pass."""
        if window not in self._masks:
            columns = torch.arange(self.row.length + self.count)
            queries = columns[self.row.length :].unsqueeze(1)
            hidden = columns > queries
            if window is not None:
                hidden |= columns <= queries - window
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            self._masks[window] = mask.repeat(groups, 1)
        return self._masks[window]


class _Layer:
    """One decoder layer."""

    def __init__(
        self, module: Any, prefix: str, weights: Weights, precision: str, config: Any
    ) -> None:
        attention, mlp = module.self_attn, module.mlp

        def joined(parent: Any, path: str, *names: str) -> Product:
            linears = [getattr(parent, name) for name in names]
            paths = [f"{prefix}{path}.{name}." for name in names]
            biases = [_dense(weights(f"{one}bias")) for one in paths] if _biased(linears) else []
            return product([weights(f"{one}weight") for one in paths], biases, precision)

        def norm(path: str) -> _Norm | None:
            found = module
            for part in path.split("."):
                found = getattr(found, part, None)
            return None if found is None else _norm(found, f"{prefix}{path}.", weights, config)

        self.query_key_value = joined(attention, "self_attn", "q_proj", "k_proj", "v_proj")
        self.attended = joined(attention, "self_attn", "o_proj")
        self.gate_up = joined(mlp, "mlp", "gate_proj", "up_proj")
        self.down = joined(mlp, "mlp", "down_proj")
        self.activation = mlp.act_fn
        self.kv_heads, self.width = config.num_key_value_heads, attention.head_dim
        self.heads = config.num_attention_heads
        self.scaling = attention.scaling
        # Mistral has its window in the configuration alone.
        window = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":
            window = config.sliding_window
        self.window: int | None = window
        self.query_norm, self.key_norm = norm("self_attn.q_norm"), norm("self_attn.k_norm")
        self.before = norm("input_layernorm")
        # Gemma norms what a block gives too; the others call the norm before their MLP so.
        after, second = norm("post_attention_layernorm"), norm("pre_feedforward_layernorm")
        self.after_attention = after if second else None
        self.before_mlp = second or after
        self.after_mlp = norm("post_feedforward_layernorm")

    def __call__(
        self, x: Tensor, index: int, spans: Sequence[_Span], rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden)."""
        assert self.before is not None  # noqa: S101 - every family has both
        assert self.before_mlp is not None  # noqa: S101
        projected = self.query_key_value(self.before(x)).view(len(x), -1, self.width)
        queries_keys = projected[:, : self.heads + self.kv_heads]
        if self.query_norm is not None and self.key_norm is not None:
            normed = self.query_norm(queries_keys[:, : self.heads])
            queries_keys = torch.cat([normed, self.key_norm(queries_keys[:, self.heads :])], dim=1)
        queries_keys = _rotate(queries_keys, *rotation)
        queries, keys = queries_keys[:, : self.heads], queries_keys[:, self.heads :].transpose(0, 1)
        values = projected[:, self.heads + self.kv_heads :].transpose(0, 1)
        mixed = [
            self._attend(
                queries[span.at : span.end],
                span.write(index, keys[:, span.at : span.end], values[:, span.at : span.end]),
                span,
            )
            for span in spans
        ]
        if (padding := len(x) - spans[-1].end) > 0:
            mixed.append(x.new_zeros((padding, self.heads * self.width)))
        out = self.attended(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
        x = x + (out if self.after_attention is None else self.after_attention(out))
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, dim=1)
        out = self.down(self.activation(gate).mul_(up))
        return x + (out if self.after_mlp is None else self.after_mlp(out))

    def _attend(self, queries: Tensor, keys_values: Tensor, span: _Span) -> Tensor:
        """Attention of a row's new queries (new, heads, width) to its columns."""
        groups = self.heads // self.kv_heads
        if span.count == 1:
            if self.window is not None:
                keys_values = keys_values[:, :, -self.window :]
            keys, values = keys_values
            # Two products: for one query torch's fused attention takes 1.4 times as long.
            scores = torch.bmm(queries.view(self.kv_heads, groups, -1), keys.transpose(1, 2))
            return torch.bmm(scores.mul_(self.scaling).softmax(dim=-1), values).view(1, -1)
        # Queries of heads that share keys stand below each other, so that keys are not repeated.
        stacked = queries.reshape(span.count, self.kv_heads, groups, -1).permute(1, 2, 0, 3)
        keys, values = keys_values.unsqueeze(1)
        result = functional.scaled_dot_product_attention(
            stacked.flatten(1, 2).unsqueeze(0),
            keys,
            values,
            attn_mask=span.mask(self.window, groups),
            scale=self.scaling,
        )
        result = result.view(self.kv_heads, groups, span.count, -1)
        return result.permute(2, 0, 1, 3).flatten(1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021); the sines of the first half are negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class _Norm:
    """Root mean square normalisation over the last dimension."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _norm(module: Any, prefix: str, weights: Weights, config: Any) -> _Norm:
    weight = _dense(weights(f"{prefix}weight")).float()
    if config.model_type.startswith("gemma"):
        weight = weight + 1
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return _Norm(weight, eps)


def _checked(weights: Weights, frame: Any) -> Weights:
    def checked(name: str) -> Tensor | Quantised:
        weight, wanted = weights(name), tuple(frame.get_parameter(name).shape)
        if tuple(weight.shape) != wanted:
            raise ConfigError(
                f"{name} has the shape {tuple(weight.shape)}, and config.json says {wanted}; use "
                "the config.json that belongs to the weights"
            )
        return weight

    return checked


def _dense(weight: Tensor | Quantised) -> Tensor:
    return weight.dequantised() if isinstance(weight, Quantised) else weight


def _biased(linears: Sequence[Any]) -> bool:
    return any(one.bias is not None for one in linears)

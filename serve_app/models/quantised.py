"""Weights of linear layers in fewer bits, and the products that CPUs compute with them.

`int8`: one scale an output channel. `int4`: 16 levels for each
32 neighbours of a row; tables that do not divide so are int8. Only weights lose precision:
activations enter the int8 product as 16-bit integers, split into two 8-bit halves, so its sums are
exact and a row's result does not depend on the rows beside it. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.core.errors import ConfigError

Precision = Literal["float32", "bfloat16", "int8", "int4"]
QUANTISED = ("int8", "int4")
"""The precisions that are not a dtype of torch's own products."""

GROUP = 32
"""Neighbours in a row that share the scale and zero of int4."""

_LEVELS8, _LEVELS4 = 127, 15
_FITS = 2  # refinements of an int4 scale
_MIDDLE4 = 8  # the level that stands for the zero of a group
_BLOCK4 = 64  # rows that torch's int4 kernel packs side by side
_LEVELS16 = 127 * 256  # both halves stay within 8 bits
_ROUNDS = 1.5 * 2**23  # added and taken away, it rounds a float32 below 2**22; faster than round()
_TINY = 1e-30  # a row of zeros has no scale
# From so many rows on, unpacking int4 for a bfloat16 product is faster than the int4 kernel.
_UNPACK_FROM = 64
_UNPACKED_ROWS = 1024  # rows of weights unpacked at once
_ops: Any = torch.ops

Product = Callable[[Tensor], Tensor]
"""x (tokens, in) -> x @ weight.T + bias, (tokens, out); both float32."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A weight (out, in) in fewer bits.

    Attributes:
        values: int8 (out, in); or uint8 (out, in / 2) with two 4-bit levels a byte, the even
            column in the lower half.
        scale: int8: float32 (out,); int4: bfloat16 (out, in / GROUP).
        zero: None; or of the same shape as `scale`: what level 8 stands for.
    """

    values: Tensor
    scale: Tensor
    zero: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight: (out, in)."""
        rows, columns = self.values.shape
        return rows, columns if self.zero is None else 2 * columns

    def dequantised(self) -> Tensor:
        """The weight it stands for, in float32."""
        if self.zero is None:
            return self.values.float() * self.scale.unsqueeze(1)
        levels = _levels(self.values).view(*self.scale.shape, GROUP).float() - _MIDDLE4
        weight = levels * self.scale.float().unsqueeze(2) + self.zero.float().unsqueeze(2)
        return weight.flatten(1)


def quantise(weight: Tensor, precision: str) -> Quantised:
    """`weight` (out, in) in int8 or int4; int8 too where int4 cannot divide it."""
    if precision == "int4" and weight.shape[1] % GROUP == 0 and weight.shape[0] % _BLOCK4 == 0:
        return _quantise4(weight.float())
    weight = weight.float()
    scale = weight.abs().amax(dim=1).clamp(min=_TINY) / _LEVELS8
    return Quantised((weight / scale.unsqueeze(1)).round_().to(torch.int8), scale)


def _quantise4(weight: Tensor) -> Quantised:
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = torch.aminmax(groups, dim=2, keepdim=True)
    scale = (high - low).clamp_(min=_TINY) / _LEVELS4
    zero = low + _MIDDLE4 * scale
    for _ in range(_FITS):  # the line through levels and weights, by least squares
        levels = _nearest(groups, scale, zero).sub_(_MIDDLE4)
        mean, centre = levels.mean(2, keepdim=True), groups.mean(2, keepdim=True)
        levels.sub_(mean)
        slope = (levels * groups).sum(2, keepdim=True) / levels.square().sum(2, keepdim=True)
        scale = torch.where(slope > 0, slope, scale)  # not a number where all weights are equal
        zero = torch.where(slope > 0, centre - slope * mean, zero)
    # Levels for scale and zero as they are stored, so that their rounding is not added.
    scale, zero = scale.to(torch.bfloat16), zero.to(torch.bfloat16)
    levels = _nearest(groups, scale.float(), zero.float()).to(torch.uint8).flatten(1)
    return Quantised(levels[:, ::2] | (levels[:, 1::2] << 4), scale.squeeze(2), zero.squeeze(2))


def _nearest(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((groups - zero) / scale).add_(_MIDDLE4).round_().clamp_(0, _LEVELS4)


def _levels(values: Tensor) -> Tensor:
    """The levels (out, in) of packed int4 values."""
    return torch.stack([values & 15, values >> 4], dim=2).flatten(1)


def require_cpu_support(precision: str) -> None:
    """Checks that this CPU computes `precision` exactly and fast.

    Raises:
        ConfigError: it has no 8-bit dot products (VNNI); without, oneDNN's sums overflow.
    """
    if precision in QUANTISED and not torch.cpu._is_vnni_supported():
        raise ConfigError(
            f"GENERATOR_DTYPE={precision} needs a CPU with AVX-512 VNNI (Intel from 2019, AMD from "
            "Zen 4), and this one has none; use float32 or bfloat16"
        )


def product(
    weights: Sequence[Tensor | Quantised], biases: Sequence[Tensor], precision: str
) -> Product:
    """One product with weights of equal width, joined row by row.

    Args:
        weights: each (out, in); quantised here where `precision` asks for it and they are not yet.
        biases: of each, or empty.
        precision: of the product.
    """
    bias = torch.cat([one.float() for one in biases]) if biases else None
    if precision not in QUANTISED:
        dtype = getattr(torch, precision)
        return _Float(torch.cat([_plain(one).to(dtype) for one in weights]), bias)
    parts = [one if isinstance(one, Quantised) else quantise(one, precision) for one in weights]
    forms = {one.zero is None for one in parts}
    if len(forms) > 1:
        each = [product([one], [], precision) for one in parts]
        return lambda x: _plus(torch.cat([one(x) for one in each], dim=1), bias)
    return _Int8(parts, bias) if forms == {True} else _Int4(parts, bias)


def _plus(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result.add_(bias)


def _plain(weight: Tensor | Quantised) -> Tensor:
    return weight.dequantised() if isinstance(weight, Quantised) else weight


class _Float:
    """A product in float32 or bfloat16, its weights in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._dtype = weight.dtype
        self._bias = None if bias is None else bias.to(weight.dtype)
        self._packed = _onednn_computes(weight.dtype)
        self._weight = weight.contiguous()
        if self._packed:
            self._weight = _ops.mkldnn._reorder_linear_weight(self._weight, 16)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._packed:
            return functional.linear(x.to(self._dtype), self._weight, self._bias).float()
        result: Tensor = _ops.mkldnn._linear_pointwise(
            x.to(self._dtype), self._weight, self._bias, "none", [], ""
        )
        return result.float()


def _onednn_computes(dtype: torch.dtype) -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype == torch.bfloat16:
        return available and bool(_ops.mkldnn._is_mkldnn_bf16_supported())
    return available and hasattr(_ops.mkldnn, "_linear_pointwise")


class _Int8:
    """An int8 product: AMX or VNNI multiplies, the sums are whole numbers."""

    def __init__(self, parts: Sequence[Quantised], bias: Tensor | None) -> None:
        values = torch.cat([one.values for one in parts])
        self._scale = torch.cat([one.scale for one in parts])
        self._bias = bias
        self._zeros = torch.zeros(len(values), dtype=torch.int32)
        self._weight = _ops.onednn.qlinear_prepack(values, [16, values.shape[1]])

    def __call__(self, x: Tensor) -> Tensor:
        halves, scale = _split(x)
        sums: Tensor = _ops.onednn.qlinear_pointwise(
            halves, 1.0, 0, self._weight, self._scale, self._zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        high, low = sums.chunk(2)
        return _plus(low.add_(high, alpha=256).mul_(scale), self._bias)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (tokens, in) as (256 * high + low) * scale: int8 (2 * tokens, in), high first, and scale.

    Not a number stays one: its scale is NaN too.
    """
    scale = x.abs().amax(dim=1, keepdim=True).mul_(1 / _LEVELS16).clamp_(min=_TINY)
    low = (x / scale).add_(_ROUNDS).sub_(_ROUNDS)
    high = (low * (1 / 256)).add_(0.5).floor_()
    halves = torch.empty((2, *x.shape), dtype=torch.int8)
    halves[0].copy_(high)
    halves[1].copy_(low.sub_(high, alpha=256))
    return halves.flatten(0, 1), scale


class _Int4:
    """An int4 product: torch's kernel for few rows; for many, blocks unpacked for bfloat16."""

    def __init__(self, parts: Sequence[Quantised], bias: Tensor | None) -> None:
        packed, scales = [], []
        for one in parts:
            assert one.zero is not None  # noqa: S101 - `product` sees to it
            levels = _levels(one.values).to(torch.int32)
            packed.append(_ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1))
            scales.append(torch.stack([one.scale.t(), one.zero.t()], dim=2))
        self._packed = torch.cat(packed)
        self._scales = torch.cat(scales, dim=1).contiguous()
        self._bias = bias
        self._unpack = _packs_as_expected()

    def __call__(self, x: Tensor) -> Tensor:
        rounded = x.to(torch.bfloat16)
        if len(x) < _UNPACK_FROM or not self._unpack:
            result: Tensor = _ops.aten._weight_int4pack_mm_for_cpu(
                rounded, self._packed, GROUP, self._scales
            )
        else:
            result = torch.cat(
                [
                    rounded @ self._unpacked(start, start + _UNPACKED_ROWS)
                    for start in range(0, len(self._packed), _UNPACKED_ROWS)
                ],
                dim=1,
            )
        return _plus(result.float(), self._bias)

    def _unpacked(self, start: int, stop: int) -> Tensor:
        """Rows of the weight, transposed: bfloat16 (in, rows)."""
        # Contiguous: their products are five times as fast.
        scale, zero = self._scales[:, start:stop].permute(2, 0, 1).contiguous().unsqueeze(2)
        levels = _kernel_levels(self._packed[start:stop]).to(torch.bfloat16).sub_(_MIDDLE4)
        return torch.addcmul(zero, levels.view(len(scale), GROUP, -1), scale).flatten(0, 1)


def _kernel_levels(packed: Tensor) -> Tensor:
    """Levels (in, rows) of weights as the int4 kernel keeps them where there is AVX-512.

    For each 64 rows and each column: 32 bytes, the first 32 rows in their lower halves.
    """
    blocks = packed.view(len(packed) // _BLOCK4, -1, _BLOCK4 // 2)
    levels = torch.cat([blocks & 15, blocks >> 4], dim=2)
    return levels.transpose(0, 1).flatten(1)


def _packs_as_expected() -> bool:
    """Whether `_kernel_levels` reads what this machine's kernel packs."""
    levels = torch.arange(_BLOCK4 * 32, dtype=torch.int32).view(_BLOCK4, 32) * 7 % 16
    packed = _ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
    return bool(torch.equal(_kernel_levels(packed).int(), levels.t()))


class Table:
    """Rows to look up by token, in the precision of the products.

    int8 even where products are int4: it is read a row at a time.
    """

    def __init__(self, weight: Tensor | Quantised, precision: str) -> None:
        self._scale: Tensor | None = None
        if precision not in QUANTISED:
            self._rows = _plain(weight).to(getattr(torch, precision))
            return
        if not isinstance(weight, Quantised) or weight.zero is not None:
            weight = quantise(_plain(weight), "int8")
        self._rows, self._scale = weight.values, weight.scale

    @property
    def num_embeddings(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __call__(self, ids: Tensor) -> Tensor:
        """(tokens,) -> float32 (tokens, width)."""
        rows = functional.embedding(ids, self._rows).float()
        return rows if self._scale is None else rows.mul_(self._scale[ids].unsqueeze(1))

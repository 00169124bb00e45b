"""Quantised products: near the weights they stand for, and the same whatever rows come along."""

from __future__ import annotations

import pytest
import torch

from serve_app.core.errors import ConfigError
from serve_app.models import quantised
from serve_app.models.quantised import QUANTISED, Table, product, quantise, require_cpu_support

vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(),  # type: ignore[attr-defined]
    reason="this CPU has no VNNI",
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@vnni
@pytest.mark.parametrize("tokens", [1, 3, 16, 150])
@pytest.mark.parametrize(("precision", "error"), [("int8", 5e-5), ("int4", 1e-2)])
def test_a_product_is_that_of_the_weights_it_stands_for(
    precision: str, error: float, tokens: int
) -> None:
    weights, biases = [numbers(128, 256), numbers(192, 256, seed=1)], [numbers(128), numbers(192)]
    x = numbers(tokens, 256, seed=2)
    found = product(weights, biases, precision)(x)
    stands_for = torch.cat([quantise(one, precision).dequantised() for one in weights])
    wanted = x @ stands_for.T + torch.cat(biases)
    assert (found - wanted).abs().max() < error * wanted.abs().max()


@vnni
@pytest.mark.parametrize("precision", QUANTISED)
def test_a_row_does_not_depend_on_the_rows_beside_it(precision: str) -> None:
    multiply, x = product([numbers(256, 512)], [], precision), numbers(40, 512, seed=2)
    together = multiply(x)
    for first, last in ((0, 1), (3, 5), (7, 24), (39, 40)):
        assert torch.equal(multiply(x[first:last]), together[first:last])


@pytest.mark.parametrize(("precision", "levels"), [("int8", 127), ("int4", 7.5)])
def test_weights_are_off_by_half_a_level_at_most(precision: str, levels: float) -> None:
    weight = numbers(64, 64)
    off = (quantise(weight, precision).dequantised() - weight).abs()
    step = weight.abs().amax(dim=1, keepdim=True) / levels
    # An int4 group may cut off its ends a little, for smaller errors elsewhere.
    assert (off <= step * (0.501 if precision == "int8" else 1.0)).all()
    assert off.mean() < step.mean() / 3


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("value", [0.0, 0.5, -2.0])
def test_equal_weights_stay_what_they_are(precision: str, value: float) -> None:
    weight = torch.full((64, 64), value)
    assert torch.allclose(quantise(weight, precision).dequantised(), weight, rtol=1e-2)


def test_int4_takes_int8_where_a_table_does_not_divide() -> None:
    assert quantise(numbers(64, 40), "int4").zero is None
    assert quantise(numbers(40, 64), "int4").zero is None
    assert quantise(numbers(64, 64), "int4").zero is not None


@vnni
def test_parts_of_different_form_give_one_product() -> None:
    weights = [numbers(64, 64), numbers(40, 64, seed=1)]
    x = numbers(5, 64, seed=2)
    wanted = x @ torch.cat([quantise(w, "int4").dequantised() for w in weights]).T
    assert (product(weights, [], "int4")(x) - wanted).abs().max() < 0.02 * wanted.abs().max()


@vnni
def test_what_is_not_finite_stays_so_in_its_row_alone() -> None:
    x = numbers(4, 64)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    found = product([numbers(64, 64)], [], "int8")(x)
    assert found[[0, 3]].isfinite().all()
    assert not found[1].isfinite().any()
    assert not found[2].isfinite().any()
    assert (product([numbers(64, 64)], [], "int8")(torch.zeros(1, 64)) == 0).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", *QUANTISED])
def test_a_table_gives_its_rows(precision: str) -> None:
    weight = numbers(50, 64)
    table = Table(weight, precision)
    found = table(torch.tensor([3, 49, 3]))
    assert table.num_embeddings == 50
    assert (found - weight[[3, 49, 3]]).abs().max() < 0.02
    assert torch.equal(found[0], found[2])


def test_a_cpu_without_vnni_is_told_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    require_cpu_support("bfloat16")
    for precision in QUANTISED:
        with pytest.raises(ConfigError, match="use float32 or bfloat16"):
            require_cpu_support(precision)


@vnni
def test_int4_kernels_that_pack_otherwise_are_not_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight, x = numbers(128, 64), numbers(150, 64)
    unpacked = product([weight], [], "int4")(x)
    monkeypatch.setattr(quantised, "_packs_as_expected", lambda: False)
    by_kernel = product([weight], [], "int4")(x)
    assert (unpacked - by_kernel).abs().max() < 0.02 * by_kernel.abs().max()

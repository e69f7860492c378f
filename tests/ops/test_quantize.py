"""Rows in int8: no further from the row than half a step, and products without an error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharnn import machine
from sharnn.ops.quantize import integer_product, quantized


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_a_row_comes_back_within_half_a_step(row: list[float]) -> None:
    x = torch.tensor([row, [0.0] * len(row)])
    integers, scale = quantized(x)
    assert integers.dtype == torch.int8
    assert int(integers.min()) >= -127
    assert scale.tolist() == pytest.approx([max(map(abs, row)) / 127, 0])
    error = (integers * scale[:, None] - x).abs().amax(1)
    assert bool((error <= 0.501 * scale + 1e-30).all())


@pytest.mark.parametrize("vnni", [False, True])
@pytest.mark.parametrize("columns", [1, 1024, 1025, 3000])
def test_products_of_integers_are_exact(
    vnni: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a sum is larger than float32 can count, as of rows of the largest number."""
    if vnni and not machine.allows("avx512_vnni"):
        pytest.skip("no VNNI here")
    monkeypatch.setattr(machine, "allows", lambda feature: vnni)
    generator = torch.Generator().manual_seed(0)
    a_NK, b_MK = (
        torch.randint(-127, 128, (rows, columns), dtype=torch.int8, generator=generator)
        for rows in (3, 5)
    )
    a_NK[0], b_MK[0], b_MK[1] = 127, 127, -127
    found_NM = integer_product(a_NK, b_MK)
    assert found_NM.dtype == torch.int32
    assert torch.equal(found_NM.long(), a_NK.long() @ b_MK.long().t())
    one_1K = a_NK[0].view(columns, 1).t()
    assert one_1K.stride() == (1, 1)
    assert torch.equal(integer_product(one_1K, b_MK), found_NM[:1])

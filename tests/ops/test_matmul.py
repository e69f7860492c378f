"""Products by packed matrices equal plain ones, and are left where they don't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sharnn.ops import matmul


@pytest.fixture(autouse=True)
def _checked_anew() -> Iterator[None]:
    matmul._multiplies_packed_rightly.cache_clear()
    yield
    matmul._multiplies_packed_rightly.cache_clear()


def tensors(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a_NK, b_MK = torch.randn(rows, 48), torch.randn(64, 48)
    return a_NK, b_MK, (a_NK.double() @ b_MK.t().double()).float()


@pytest.mark.parametrize("rows", [1, 8, 1024])
def test_packed_products_equal_plain_ones(rows: int) -> None:
    a_NK, b_MK, expected_NM = tensors(rows)
    assert torch.allclose(matmul.product(a_NK, b_MK), expected_NM, atol=1e-4)


def test_a_packed_product_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def part_of_it(x_NK: torch.Tensor, matrix: torch.Tensor, bias_M: object) -> torch.Tensor:
        out_NM = torch.ops.mkldnn._linear_pointwise(x_NK, matrix, bias_M, "none", [], "")
        out_NM[len(out_NM) // 2 :] = float("nan")
        return out_NM

    monkeypatch.setattr(matmul, "_onednn", part_of_it)
    a_NK, b_MK, expected_NM = tensors(1024)
    assert not matmul.has_onednn(a_NK)
    assert torch.allclose(matmul.product(a_NK, b_MK), expected_NM, atol=1e-4)


def test_nothing_is_packed_where_threads_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    assert not matmul.has_onednn(torch.ones(2, 2))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_the_check_holds_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul.has_onednn(torch.ones(2, 2))

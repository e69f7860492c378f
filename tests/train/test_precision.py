"""Which dtypes a device supports, and what `auto` selects."""

from __future__ import annotations

import pytest
import torch

from sharnn.errors import ConfigError
from sharnn.train.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast", [False, True])
def test_bf16_is_for_hardware_that_multiplies_in_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharnn.train.precision.has_fast_bf16", lambda _: fast)
    assert Precision.resolve(CPU, "auto").name == ("bf16" if fast else "fp32")
    assert Precision.resolve(CPU, "fp32").name == "fp32"
    if fast:
        assert Precision.resolve(CPU, "bf16").name == "bf16"
    else:
        with pytest.raises(ConfigError, match=r"emulated on this cpu.*give fp32 or auto"):
            Precision.resolve(CPU, "bf16")


def test_fp16_is_for_cuda() -> None:
    with pytest.raises(ConfigError, match="CUDA only"):
        Precision.resolve(CPU, "fp16")

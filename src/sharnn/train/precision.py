"""Device and dtype of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from sharnn.errors import ConfigError
from sharnn.machine import keep_freed_memory
from sharnn.ops.matmul import has_fast_bf16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` names on this machine.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as failure:
        raise ConfigError(
            f"device '{name}' is unknown: give auto, cpu, cuda or cuda:N"
        ) from failure
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}' does not exist: PyTorch finds {torch.cuda.device_count()} CUDA devices, "
            "give one of them, or cpu"
        )
    return device


@dataclass(frozen=True)
class Precision:
    """Device, and dtype of matrix products; weights and optimiser are always in float32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def resolve(cls, device: torch.device, name: str) -> Precision:
        """Return the precision that `auto`, `fp32`, `bf16` or `fp16` names on `device`.

        Raises:
            ConfigError: The device does not support training in that dtype, or emulates it.
        """
        if name == "auto":
            name = "bf16" if has_fast_bf16(device) else "fp32"
        if name == "fp16" and device.type == "cpu":
            raise ConfigError("dtype fp16 trains on CUDA only: give fp32, bf16 or auto on a CPU")
        if name == "bf16" and not has_fast_bf16(device):
            raise ConfigError(
                f"dtype bf16 is emulated on this {device.type}, many times slower than fp32: give "
                "fp32 or auto"
            )
        return cls(device, _DTYPES[name])

    def prepare(self) -> None:
        """Set up this process for speed: from now on CUDA runs float32 products as TF32."""
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        else:
            keep_freed_memory()

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return a loss scaler, which is enabled only for fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

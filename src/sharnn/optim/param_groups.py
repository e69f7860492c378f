"""Assignment of weights to optimisers."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer

from sharnn.config import OptimConfig
from sharnn.optim.lamb import Lamb
from sharnn.optim.muon import Muon

_DEFAULT_MIN_TRUST = 0.25


def split_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices inside the blocks, and all other parameters.

    The embedding belongs to the others, as do the rows that a split softmax adds to it: it is a table of
    vectors and not a linear map.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_table = id(parameter) in tables or name.startswith("softmax.")
        is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1 and not is_table
        (matrices if is_matrix else others).append(parameter)
    return matrices, others


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """Return the optimisers of `model`; each parameter group stores its learning rate as `base_lr`.

    LAMB applies weight decay to all weights, as the original does. AdamW and Muon apply it only to
    matrices and the embedding, because decay would pull gains and biases to values they should not have.
    """
    if config.name == "lamb":
        min_trust = _DEFAULT_MIN_TRUST if config.min_trust is None else config.min_trust
        optimizers: list[Optimizer] = [
            Lamb(
                model.parameters(),
                lr=config.lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
                min_trust=min_trust,
            )
        ]
    else:
        optimizers = _adamw_and_muon(model, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def _adamw_and_muon(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    matrices, others = split_matrices(model)
    tables = [p for p in others if p.ndim == 2]
    vectors = [p for p in others if p.ndim != 2]
    by_muon = config.name == "muon" and bool(matrices)
    decayed = tables if by_muon else matrices + tables
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [AdamW(groups, lr=config.lr, betas=config.betas, fused=True)]
    if by_muon:
        optimizers.append(
            Muon(
                matrices,
                lr=config.lr if config.matrix_lr is None else config.matrix_lr,
                weight_decay=config.weight_decay,
            )
        )
    return optimizers

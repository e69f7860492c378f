"""Which dtypes matrix products have, by what is done; run by `test_emulated_bf16.py` at its level.

    python products.py FOLDER MODEL…

trains a step of every recipe on a CPU, and reads a prompt and a text with each MODEL; writes to
FOLDER, and prints `{part: [dtype of a product's input, …]}` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from sharnn.checkpoint import load_model
from sharnn.config import Recipe
from sharnn.data.prepare import prepare
from sharnn.evaluate import evaluate_static
from sharnn.generation.decoder import RingDecoder
from sharnn.recipe import load_recipe_settings, recipe_from_settings
from sharnn.train.autosize import resized
from train.runs import make_trainer, tiny_corpus

_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "linear", "_linear_pointwise",
             "mkldnn_rnn_layer", "mkldnn_linear")  # fmt: skip


class Products(TorchDispatchMode):
    """Notes the dtypes that products have as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in _PRODUCTS:
            tensors = (value for value in args if isinstance(value, Tensor))
            self.dtypes.update(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
        return function(*args, **(kwargs or {}))


def tiny(recipe: Recipe) -> Recipe:
    """Return the recipe at a size that is trained at once, with its optimiser and wiring."""
    recipe = resized(recipe, 32, 2)
    model = dataclasses.replace(recipe.model, window=min(recipe.model.window or 0, 16))
    data = dataclasses.replace(recipe.data, num_lanes=4, segment_length=16, block_length=0)
    train = dataclasses.replace(recipe.train, device="cpu", fit=[], activation_checkpointing=False)
    return dataclasses.replace(recipe, model=model, data=data, train=train)


def main(folder: Path, models: list[str]) -> None:
    """Do each part and print what it multiplied."""
    found: dict[str, list[str]] = {}

    @contextmanager
    def noted(part: str) -> Iterator[None]:
        with Products() as products:
            yield
        found[part] = sorted(products.dtypes)

    with noted("a product in bf16"):
        torch.ones(2, 2, dtype=torch.bfloat16) @ torch.ones(2, 2, dtype=torch.bfloat16)
    recipes = Path(sys.modules["sharnn"].__file__).parent / "recipes"
    for path in sorted(recipes.glob("*.yaml")):
        recipe = tiny(recipe_from_settings(load_recipe_settings(path.stem)))
        trainer = make_trainer(folder / path.stem, recipe, tiny_corpus(folder))
        with noted(f"training {path.stem}"):
            trainer.step()
            trainer.validate()
    tokens = torch.randint(256, (2, 40))
    for model in models:
        loaded = load_model(model)
        for dtype in (None, "bf16", "int8"):
            with noted(f"a prompt, {loaded.dtype} read as {dtype}"):
                RingDecoder(loaded.model, 2, dtype).prefill(tokens)
        split = prepare([str(folder / "text.txt")], tokenizer=loaded.tokenizer).split("all")
        with noted(f"scoring, {loaded.dtype}"):
            evaluate_static(loaded.model, loaded.tokenizer, split)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Weights in fewer bits: small files, bounded errors, and nothing lost a second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import make_model, write_model
from sharnn.checkpoint import load_model, load_weights, save_model
from sharnn.checkpoint.format import digests_of
from sharnn.checkpoint.weights import WEIGHT_DTYPES, pack_weights, unpack_weights
from sharnn.errors import CheckpointError, ConfigError
from sharnn.generation import make_decoder
from sharnn.generation.packed_weights import Matrix
from sharnn.text import ByteTokenizer

ARCHITECTURES = [
    {},
    {"residual": True, "overparam_value_gate": False},
    {"architecture": "lstm", "window": None},
    {"architecture": "transformer"},
    {"split_softmax": [20, 100]},
]
PLACE = Path("model.safetensors")


def largest_of_rows(matrix: Tensor) -> Tensor:
    return matrix.abs().amax(1, keepdim=True)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_a_round_trip_stays_within_half_a_step(
    tmp_path: Path, dtype: str, settings: dict[str, object]
) -> None:
    model = write_model(tmp_path / "model", dtype=dtype, **settings)
    loaded = load_model(tmp_path / "model")
    assert loaded.dtype == dtype
    assert json.loads((tmp_path / "model" / "config.json").read_text())["weights"] == dtype
    read = loaded.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert read[name].dtype == torch.float32
        if dtype == "fp32" or tensor.ndim < 2:
            assert torch.equal(read[name], tensor), name
        elif dtype == "bf16":
            assert ((read[name] - tensor).abs() <= 2**-8 * tensor.abs()).all(), name
        else:
            # Half a step of the integers, and what the scale's rounding adds: 2⁻¹⁷ of the value.
            bound = largest_of_rows(tensor) * (0.5 / 127 + 2**-16)
            assert ((read[name] - tensor).abs() <= bound).all(), name


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize("settings", ARCHITECTURES)
def test_what_was_loaded_is_saved_as_it_was(
    tmp_path: Path, dtype: str, settings: dict[str, object]
) -> None:
    write_model(tmp_path / "one", dtype=dtype, **settings)
    loaded = load_model(tmp_path / "one")
    save_model(tmp_path / "two", loaded.model, loaded.tokenizer, loaded.card, dtype)
    for file in ("model.safetensors", "config.json", "README.md", "tokenizer.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert loaded.digest == load_model(tmp_path / "two").digest


rows = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3),
    min_size=2,
    max_size=4,
)


@given(rows, st.sampled_from([1.0, 1e-20, 3e7]))
def test_integers_and_scales_come_back_from_their_products(
    values: list[list[float]], factor: float
) -> None:
    matrix = torch.tensor(values) * factor
    # What lies this far below 1 has no inverse in float32.
    matrix = torch.where(matrix.abs() > 1e-35, matrix, 0.0).clamp(-1e38, 1e38)
    once = pack_weights({"w": matrix}, "int8")
    again = pack_weights(unpack_weights(once, "int8", PLACE), "int8")
    assert torch.equal(once["w"], again["w"])
    assert torch.equal(once["w.scale"], again["w.scale"])


def test_which_tensors_are_matrices() -> None:
    tensors = {
        "matrix": torch.randn(3, 4), "tables": torch.randn(2, 3, 4), "vector": torch.randn(4),
        "row": torch.randn(1, 4), "column": torch.randn(4, 1), "steps": torch.arange(6).view(2, 3),
    }  # fmt: skip
    packed = pack_weights(tensors, "int8")
    small = {name for name, tensor in packed.items() if tensor.dtype == torch.int8}
    assert small == {"matrix", "tables"}
    assert packed["tables.scale"].shape == (2, 3)
    unpacked = unpack_weights(packed, "int8", PLACE)
    assert set(unpacked) == set(tensors)
    assert torch.equal(unpacked["steps"], tensors["steps"])
    assert torch.allclose(unpacked["tables"], tensors["tables"], atol=0.02)


def test_int8_decoding_uses_the_very_integers_of_the_file(tmp_path: Path) -> None:
    write_model(tmp_path / "model", dtype="int8", embed_dim=40)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    model = load_model(tmp_path / "model").model
    for name in ("blocks.0.lstm.weight_hh_l0", "blocks.1.boom.linear.weight"):
        packed = Matrix(model.state_dict()[name], None, torch.int8)
        assert torch.equal(packed.weight, stored[name])
        assert packed.scale is not None
        assert torch.equal(packed.scale, stored[f"{name}.scale"])
    assert make_decoder(model, dtype="int8").step(torch.tensor([65])).isfinite().all()


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", dtype="int8")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert stored[name].shape == tensor.shape
        if tensor.ndim == 2:
            assert stored[name].dtype == torch.int8
            assert stored[f"{name}.scale"].shape == tensor.shape[:1]
            assert stored[name].abs().max() == 127  # symmetric: no row reaches -128
        else:
            assert stored[name].dtype == torch.float32
            assert f"{name}.scale" not in stored


def test_fewer_bits_take_less_room(tmp_path: Path) -> None:
    sizes = {}
    for dtype in WEIGHT_DTYPES:
        write_model(tmp_path / dtype, dtype=dtype, embed_dim=128)
        sizes[dtype] = (tmp_path / dtype / "model.safetensors").stat().st_size
    assert sizes["bf16"] < 0.52 * sizes["fp32"]
    assert sizes["int8"] < 0.28 * sizes["fp32"]


def test_the_card_names_the_dtype(tmp_path: Path) -> None:
    write_model(tmp_path / "model", dtype="int8")
    assert "parameters in int8\n" in (tmp_path / "model" / "README.md").read_text()


def test_a_model_in_another_dtype_is_written_as_float32(tmp_path: Path) -> None:
    model = make_model().double()
    save_model(tmp_path / "model", model, ByteTokenizer(), {})
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert model.embedding.weight.dtype == torch.float64


def test_unknown_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be saved as 'int4': give fp32, bf16, int8"):
        save_model(tmp_path / "model", make_model(), ByteTokenizer(), {}, "int4")
    assert not (tmp_path / "model").exists()


def test_values_that_are_not_finite_have_no_integers(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.embedding.weight[3, 3] = float("nan")
    with pytest.raises(
        CheckpointError, match=r"embedding\.weight contains values that are not finite"
    ):
        save_model(tmp_path / "model", model, ByteTokenizer(), {}, "int8")
    assert not list(tmp_path.iterdir())


def rewrite_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(values)
    config["digests"] = digests_of(folder, list(config["digests"]))
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_folders_from_before_there_was_a_choice_load(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    rewrite_config(tmp_path / "model", weights=None)
    loaded = load_model(tmp_path / "model")
    assert loaded.dtype == "fp32"
    assert torch.equal(loaded.model.embedding.weight, model.embedding.weight)


def without_a_scale(tensors: dict[str, Tensor]) -> None:
    del tensors["embedding.weight.scale"]


def short_scale(tensors: dict[str, Tensor]) -> None:
    tensors["embedding.weight.scale"] = tensors["embedding.weight.scale"][1:].clone()


def endless_scale(tensors: dict[str, Tensor]) -> None:
    tensors["embedding.weight.scale"][0] = float("inf")


def negative_scale(tensors: dict[str, Tensor]) -> None:
    tensors["embedding.weight.scale"][0] *= -1


def scale_of_nothing(tensors: dict[str, Tensor]) -> None:
    tensors["softmax.bias.scale"] = torch.ones(256)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_scale, r"model\.safetensors has no embedding\.weight\.scale, which is needed"),
        (short_scale, r"embedding\.weight\.scale is not a valid scale for the 256 rows"),
        (endless_scale, r"embedding\.weight\.scale is not a valid scale for the 256 rows"),
        (negative_scale, r"embedding\.weight\.scale is not a valid scale for the 256 rows"),
        (scale_of_nothing, "does not fit the model's settings"),
    ],
)
def test_damaged_scales_are_told(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    """Also where the digests were made to match, by a tool that rewrites a model say."""
    folder = tmp_path / "model"
    write_model(folder, dtype="int8")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    rewrite_config(folder)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
    with pytest.raises(CheckpointError, match=message):
        load_weights(make_model(), folder)


def test_a_manifest_of_another_dtype_is_told(tmp_path: Path) -> None:
    write_model(tmp_path / "model", dtype="int8")
    rewrite_config(tmp_path / "model", weights="fp32")
    with pytest.raises(CheckpointError, match=r"in int8, but config\.json beside it declares fp32"):
        load_model(tmp_path / "model")
    rewrite_config(tmp_path / "model", weights="int4")
    with pytest.raises(CheckpointError, match="weights in 'int4', but this version"):
        load_model(tmp_path / "model")


def test_who_may_read_the_folder_may_read_the_weights(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {(tmp_path / "model").stat().st_mode & 0o666}

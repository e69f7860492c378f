"""Where heads look: the model's own weights, whatever the segments, and what they come to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import make_model
from sharnn.errors import ConfigError, DataError
from sharnn.evaluate import read_attention
from sharnn.evaluate.attention import AttentionReading
from sharnn.evaluate.attention_sums import BANDS, by_distance, distance_edges
from sharnn.model import LanguageModel
from sharnn.ops import FAST, REFERENCE, reference
from sharnn.text import ByteTokenizer
from texts import reference_text

TEXT = np.frombuffer(reference_text(150), np.uint8)
CONTEXT = np.frombuffer(reference_text(1000)[-70:], np.uint8)
TOKENIZER = ByteTokenizer()


def sharp_model(**changes: object) -> LanguageModel:
    """A model whose head prefers some rows by far, so that no sum is that of an even head."""
    model = make_model(**{"residual": True, "attention_layers": "all", "overparam_value_gate": False,
                          **changes})  # fmt: skip
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1)
        for block in model.typed_blocks:
            if getattr(block, "attention", None) is not None:
                block.attention.query_norm.weight.fill_(4)
                block.attention.value_gate.weight.fill_(0.5)
    return model.double().eval()


def marked_model(marker: int, window: int) -> LanguageModel:
    """A model whose head looks at the rows that were written after reading `marker`, and at no other."""
    model = make_model(
        embed_dim=256, num_layers=1, attention_layers="all", window=window, residual=True
    )
    head = model.blocks[0].attention
    with torch.no_grad():
        for parameter in model.blocks[0].lstm.parameters():
            parameter.zero_()
        model.embedding.weight.copy_(torch.eye(256))
        head.query.weight.zero_()
        head.query.bias.copy_(torch.eye(256)[marker])
        head.query_norm.weight.fill_(50)
    return model.eval()


def weights_by_hand(model: LanguageModel, tokens: list[int]) -> list[np.ndarray]:
    """Return each head's weights `[T, T]` over a text, from the queries and rows of one long segment."""
    heads = []

    def attention(query, rows, current, key_gate, value_gate, window, *_):  # type: ignore[no-untyped-def]
        weights = np.zeros((len(tokens), len(tokens)))
        for t in range(len(tokens)):
            reached = range(max(t - window + 1, 0), t + 1)
            scores = [float((query[0, t] * key_gate * rows[0, k]).sum()) / math.sqrt(query.shape[-1])
                      for k in reached]  # fmt: skip
            powers = np.exp(np.array(scores) - max(scores))
            weights[t, list(reached)] = powers / powers.sum()
        heads.append(weights)
        return reference.attention(query, rows, current, key_gate, value_gate, window)

    model.ops = dataclasses.replace(REFERENCE, attention=attention)
    with torch.no_grad():
        model(torch.tensor([tokens]), model.initial_state(1))
    model.ops = FAST
    return heads


def same(a: Any, b: Any) -> bool:
    """Compare nested numbers, all but exactly."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if a is None or isinstance(a, str) else a == pytest.approx(b, rel=1e-6, abs=1e-9)


@given(num_tokens=st.integers(1, 6), num_memory=st.integers(0, 6), num_distances=st.integers(1, 14))
def test_by_distance_counts_back_from_each_position(
    num_tokens: int, num_memory: int, num_distances: int
) -> None:
    x = torch.arange(1.0, 1 + num_tokens * (num_tokens + num_memory)).view(num_tokens, -1)
    result = by_distance(x, num_distances)
    assert result.shape == (num_tokens, min(num_tokens + num_memory, num_distances))
    for t in range(num_tokens):
        for d in range(result.shape[1]):
            assert result[t, d] == (x[t, num_memory + t - d] if d <= num_memory + t else 0)


@given(num_distances=st.integers(1, 70_000))
def test_bins_hold_every_distance_once(num_distances: int) -> None:
    edges = distance_edges(num_distances)
    assert edges[0] == 0
    assert edges[-1] == num_distances
    assert (np.diff(edges) > 0).all()
    assert edges[1] == 1  # the position's own row is alone
    assert len(edges) < 12 * math.log2(num_distances) + 3


@pytest.mark.parametrize("window", [1, 7, 150])
def test_numbers_are_those_of_the_weights(window: int) -> None:
    model = sharp_model(window=window)
    result = read_attention(model, TOKENIZER, TEXT, num_shown=1000)
    by_hand = weights_by_hand(model, [TOKENIZER.start_token, *TEXT[:-1].tolist()])
    num = len(TEXT)
    for head, weights in zip(result.heads, by_hand, strict=True):
        distance = np.arange(num)[:, None] - np.arange(num)
        entropy = -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(1)
        earlier = weights * (distance > 0)
        right = earlier * (TEXT[None, :] == TEXT[:, None])
        sums = head.sums
        assert sums.share_R.sum() == pytest.approx(1)
        assert sums.mean_reach == pytest.approx((weights * distance).sum() / num)
        assert sums.entropy_bits == pytest.approx(entropy.mean(), rel=1e-6)
        quarters = [entropy[np.arange(num) * 4 // num == q].mean() for q in range(4)]
        assert sums.entropy_bits_by_quarter == pytest.approx(quarters, rel=1e-6)
        assert head.rows.entropy_bits_S == pytest.approx(entropy, rel=1e-5, abs=1e-6)
        for start, stop in zip(BANDS, (*BANDS[1:], num), strict=True):
            band = weights[(distance >= start) & (distance < stop)].sum() / num
            found = [
                v for k, v in sums.share_by_band.items() if k.split("-")[0].strip("+") == str(start)
            ]
            assert found == ([pytest.approx(band)] if start < window else [])
        if window == 1:
            assert (sums.right_share, sums.strongest_right_share) == (None, None)
            continue
        assert sums.right_share == pytest.approx(right.sum() / earlier.sum())
        strongest = earlier[1:].argmax(1)
        assert sums.strongest_right_share == pytest.approx((TEXT[strongest] == TEXT[1:]).mean())
        for t, (distances, kept) in enumerate(
            zip(head.rows.distance_SJ, head.rows.weight_SJ, strict=True)
        ):
            assert kept == pytest.approx(np.sort(weights[t])[::-1][: len(kept)], abs=1e-7)
            assert weights[t, t - distances[kept > 0]] == pytest.approx(kept[kept > 0])


def test_an_even_head_is_what_its_name_says() -> None:
    window = 20
    head = read_attention(sharp_model(window=window), TOKENIZER, TEXT).heads[0]
    reached = np.minimum(np.arange(len(TEXT)) + 1, window)
    assert head.even.entropy_bits == pytest.approx(np.log2(reached).mean())
    assert head.even.mean_reach == pytest.approx(((reached - 1) / 2).mean())
    assert head.even.share_by_band["0"] == pytest.approx((1 / reached).mean())
    assert head.even.share_R == pytest.approx([(1 / reached)[reached > d].sum() / len(TEXT)
                                               for d in range(window)])  # fmt: skip
    assert head.even.entropy_bits > head.sums.entropy_bits + 0.1


def test_the_map_holds_all_weight_where_it_belongs() -> None:
    tokens = np.frombuffer(reference_text(1_000), np.uint8)  # more positions than stripes
    sums = read_attention(sharp_model(window=300), TOKENIZER, tokens).heads[1].sums
    stripe = np.arange(1_000) * len(sums.map_YX) // 1_000
    assert sums.map_YX.sum(1) == pytest.approx(np.bincount(stripe), rel=1e-5)
    assert sums.map_YX.sum(0) == pytest.approx(np.add.reduceat(sums.weight_R, sums.edges[:-1]))
    # Nothing is seen before the text begins.
    assert sums.map_YX[0, sums.edges[:-1] > stripe.tolist().count(0)].sum() == 0


@pytest.mark.parametrize("ops", [FAST, REFERENCE])
@pytest.mark.parametrize("reach", ["sliding", "segment"])
def test_what_was_recorded_is_what_the_model_says(ops: Any, reach: str) -> None:
    model = sharp_model(window=20, reach=reach)
    model.ops = ops
    state, nats, length = model.initial_state(1), [], 13
    tokens = torch.tensor([[TOKENIZER.start_token, *CONTEXT.tolist(), *TEXT.tolist()]])
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    parts = [slice(i, i + length) for i in range(0, len(CONTEXT), length)]
    parts = [slice(p.start, min(p.stop, len(CONTEXT))) for p in parts]
    parts += [slice(i, i + length) for i in range(len(CONTEXT), inputs.shape[1], length)]
    with torch.no_grad():
        for part in parts:
            logits, state = model(inputs[:, part], state)
            nats.append(-logits.log_softmax(-1).gather(-1, targets[:, part, None])[0, :, 0])
    expected = torch.cat(nats)[len(CONTEXT) :].numpy()
    result = read_attention(
        model, TOKENIZER, TEXT, context=CONTEXT, num_shown=1000, segment_length=length
    )
    assert result.nats_S == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert result.nats == pytest.approx(expected.sum(), rel=1e-6)


@settings(max_examples=10)
@given(segment_length=st.integers(1, 160), num_context=st.integers(0, 70))
def test_segments_do_not_change_what_is_seen(segment_length: int, num_context: int) -> None:
    model, context = sharp_model(window=20), CONTEXT[70 - num_context :]

    def read(length: int) -> AttentionReading:
        return read_attention(
            model, TOKENIZER, TEXT, context=context, num_shown=40, segment_length=length
        )

    whole, parts = read(1000), read(segment_length)
    assert same(parts.to_dict(), whole.to_dict())
    assert parts.tokens.tolist() == TEXT[:40].tolist()
    assert parts.before.tolist() == context[-19:].tolist()
    for a, b in zip(parts.heads, whole.heads, strict=True):
        assert a.rows.weight_SJ == pytest.approx(b.rows.weight_SJ, rel=1e-5)
        assert a.sums.map_YX == pytest.approx(b.sums.map_YX, rel=1e-5)


@pytest.mark.parametrize("segment_length", [7, 512])
@pytest.mark.parametrize("window", [30, 1000])
def test_a_head_that_looks_at_one_place_is_reported_to(window: int, segment_length: int) -> None:
    marker, place = ord("!"), 60
    tokens = TEXT.copy()
    assert marker not in tokens
    tokens[place] = marker
    head = read_attention(
        marked_model(marker, window),
        TOKENIZER,
        tokens,
        num_shown=150,
        segment_length=segment_length,
    ).heads[0]
    # The row that was written after the marker was read is that of the next position.
    distance = np.arange(150) - (place + 1)
    looks = (distance >= 0) & (distance < window)
    assert (head.rows.distance_SJ[looks, 0] == distance[looks]).all()
    assert (head.rows.weight_SJ[looks, 0] > 0.999).all()
    assert (head.rows.entropy_bits_S[looks] < 0.01).all()
    # Without it in reach, all rows are alike.
    reached = np.minimum(np.arange(150) + 1, window)
    assert head.rows.weight_SJ[~looks, 0] == pytest.approx(1 / reached[~looks], rel=1e-3)
    assert head.rows.distance_SJ.max() < window
    if window == 1000:
        after = tokens[place + 2 :]
        pointing = head.sums.strongest_right_share * 149  # all but the first have an earlier row
        assert pointing >= (after == tokens[place + 1]).sum() > 0


def test_one_block_can_be_chosen_and_the_window_is_put_back() -> None:
    model = sharp_model(window=20)
    both = read_attention(model, TOKENIZER, TEXT, window=33)
    assert both.window == 33
    assert len(both.heads[0].sums.weight_R) == 33
    assert model.window == 20
    (second,) = read_attention(model, TOKENIZER, TEXT, window=33, layer=1).heads
    assert second.layer == 1
    assert same(second.sums.to_dict(), both.heads[1].sums.to_dict())


def test_what_is_kept_is_bounded() -> None:
    tokens = np.tile(TEXT, 80)
    result = read_attention(
        sharp_model(embed_dim=8), TOKENIZER, tokens, num_shown=10_000, window=50
    )
    assert result.heads[0].rows.weight_SJ.shape == (10_000, 8)
    assert len(result.nats_S) == 10_000


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"architecture": "lstm", "window": None}, {}, "an lstm, which does not attend"),
        ({"architecture": "transformer", "num_heads": 2}, {}, "a transformer with 2 heads"),
        ({"attention_layers": "none", "window": None}, {}, "attends in no block"),
        ({"window": 0}, {}, "attends in no block"),
        ({}, {"window": 0}, "the window is 0 rows"),
        ({}, {"window": -2}, "a window of -2 rows"),
        ({}, {"layer": 1}, "layer is 1: of blocks 0 … 1, those that attend are 0"),
        ({}, {"layer": -1}, "layer is -1"),
    ],
)
def test_models_without_a_head_to_look_at(
    changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_attention(make_model(**changes), TOKENIZER, TEXT, **arguments)


@pytest.mark.parametrize("length", [0, 1])
def test_texts_that_are_too_short(length: int) -> None:
    with pytest.raises(DataError, match=f"the text has {length} token"):
        read_attention(make_model(), TOKENIZER, TEXT[:length])
    assert read_attention(make_model(), TOKENIZER, TEXT[:2]).num_tokens == 2

"""Lanes read every token once, in order, and go on to the token."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharnn.data.lanes import LaneStream, Segment
from sharnn.errors import DataError


def one_epoch(stream: LaneStream) -> list[Segment]:
    segments = [stream.next_segment()]
    while segments[-1].epoch < 1:
        segments.append(stream.next_segment())
    return segments


@given(
    num_tokens=st.integers(2, 400),
    num_lanes=st.integers(1, 9),
    segment_length=st.integers(5, 40),
    random_segments=st.booleans(),
)
def test_an_epoch_predicts_every_token_of_the_lanes_once(
    num_tokens: int, num_lanes: int, segment_length: int, random_segments: bool
) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    if num_tokens <= num_lanes:
        with pytest.raises(DataError, match="too few"):
            LaneStream(tokens, num_lanes, segment_length)
        return
    stream = LaneStream(tokens, num_lanes, segment_length, random_segments)
    segments = one_epoch(stream)
    targets = np.concatenate([s.targets for s in segments], axis=1)
    inputs = np.concatenate([s.inputs for s in segments], axis=1)
    lane_length = (num_tokens - 1) // num_lanes
    assert np.array_equal(inputs.ravel(), tokens[: lane_length * num_lanes])
    assert np.array_equal(targets.ravel(), tokens[1 : lane_length * num_lanes + 1])
    assert [s.first for s in segments] == [True] + [False] * (len(segments) - 1)
    assert stream.next_segment().first


@given(
    skip=st.integers(0, 60),
    random_segments=st.booleans(),
    block_length=st.sampled_from([0, 14, 21]),
)
def test_resumes_to_the_token_through_json(
    skip: int, random_segments: bool, block_length: int
) -> None:
    tokens = np.arange(500, dtype=np.uint16)
    stream = LaneStream(tokens, 3, 7, random_segments, 5, block_length)
    for _ in range(skip):
        stream.next_segment()
    resumed = LaneStream(tokens, 3, 7, random_segments, 99, block_length)
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    for _ in range(60):
        ours, theirs = resumed.next_segment(), stream.next_segment()
        assert np.array_equal(ours.inputs, theirs.inputs)
        assert (ours.first, ours.epoch) == (theirs.first, theirs.epoch)


def test_random_lengths_are_the_papers() -> None:
    stream = LaneStream(np.zeros(2_000_000, np.uint8), 1, 200, random_segments=True)
    lengths = np.array([stream.next_segment().inputs.shape[1] for _ in range(5000)])
    assert lengths.max() == 200
    halved = (lengths < 150).mean()
    assert 0.035 < halved < 0.065
    assert abs(lengths[lengths < 150].mean() - 100) < 2
    assert (lengths == 200).mean() == pytest.approx(0.95 * 0.5, abs=0.03)


def test_another_text_is_refused() -> None:
    state = LaneStream(np.zeros(100, np.uint8), 4, 5).state_dict()
    with pytest.raises(DataError, match="not the same"):
        LaneStream(np.zeros(200, np.uint8), 4, 5).load_state_dict(state)


@given(
    num_tokens=st.integers(30, 400),
    num_lanes=st.integers(1, 9),
    segment_length=st.integers(5, 20),
    blocks=st.integers(1, 3),
)
def test_blocks_are_each_read_once_in_an_order_of_the_epochs_own(
    num_tokens: int, num_lanes: int, segment_length: int, blocks: int
) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    block_length = blocks * segment_length
    stream = LaneStream(tokens, num_lanes, segment_length, block_length=block_length)
    block_length = min(block_length, (num_tokens - 1) // num_lanes)
    segments = one_epoch(stream)
    assert all(np.array_equal(s.inputs + 1, s.targets) for s in segments)
    inputs = np.concatenate([s.inputs for s in segments], axis=1).reshape(-1, block_length)
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(block_length))
    assert (inputs[:, 0] % block_length == 0).all()
    assert len(set(inputs[:, 0])) == len(inputs) == stream.lane_length // block_length * num_lanes


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    def orders(seed: int) -> list[list[int]]:
        stream = LaneStream(np.arange(4_001, dtype=np.uint16), 2, 10, seed=seed, block_length=20)
        read = [stream.next_segment() for _ in range(2 * stream.lane_length // 10)]
        assert [s.first for s in read].count(True) == 2
        half = len(read) // 2
        return [[int(s.inputs[0, 0]) for s in part] for part in (read[:half], read[half:])]

    first, second = orders(seed=1)
    assert first != second
    assert orders(seed=1) == [first, second]
    assert orders(seed=2)[0] != first

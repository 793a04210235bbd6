"""Stretches of data between zeros."""

from __future__ import annotations

import random

import pytest

from imgstore.data.extents import GRAIN, stretches_of_data


@pytest.mark.parametrize("position", [0, 1, GRAIN - 1, GRAIN, 5 * GRAIN + 17])
def test_stretches_of_data_leave_out_whole_grains_of_zeros(position: int) -> None:
    generator = random.Random(position)
    for _ in range(50):
        block = bytearray(generator.randrange(4 * GRAIN))
        for _ in range(generator.randrange(3)):
            if block:
                block[generator.randrange(len(block))] = 1
        stretches = list(stretches_of_data(bytes(block), position))
        rebuilt = bytearray(len(block))
        for start, end in stretches:
            assert start < end
            rebuilt[start:end] = block[start:end]
        assert rebuilt == block
        assert sum(end - start for start, end in stretches) <= 2 * GRAIN

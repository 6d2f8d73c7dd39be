"""The bit that was flipped, from the sums before and after, with zlib as referee."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamainspect.formats.flipped_bit import find_flipped_bit


@given(st.binary(min_size=1, max_size=300), st.data())
def test_every_bit_of_short_data_is_found(data, draw):
    position = draw.draw(st.integers(0, 8 * len(data) - 1))
    damaged = bytearray(data)
    damaged[position // 8] ^= 1 << position % 8
    found = find_flipped_bit(zlib.crc32(data), zlib.crc32(damaged), len(data))
    assert found == position


@pytest.mark.parametrize("nbytes", [8_192, 65_537, 10_000_019])
def test_bits_of_long_data_are_found(nbytes):
    chance = random.Random(nbytes)
    data = bytearray(chance.randbytes(nbytes))
    recorded = zlib.crc32(data)
    for position in (0, 7, 8 * nbytes - 1, 8 * nbytes - 8, chance.randrange(8 * nbytes)):
        data[position // 8] ^= 1 << position % 8
        assert find_flipped_bit(recorded, zlib.crc32(data), nbytes) == position
        data[position // 8] ^= 1 << position % 8


@given(st.binary(min_size=2, max_size=100), st.data())
def test_two_flipped_bits_of_short_data_are_not_one(data, draw):
    bits = st.integers(0, 8 * len(data) - 1)
    first, second = draw.draw(st.tuples(bits, bits).filter(lambda pair: pair[0] != pair[1]))
    damaged = bytearray(data)
    for position in (first, second):
        damaged[position // 8] ^= 1 << position % 8
    # The polynomial has a Hamming distance of 4 up to 11,450 bytes: 3 flips never look like none.
    assert find_flipped_bit(zlib.crc32(data), zlib.crc32(damaged), len(data)) is None


def test_equal_sums_and_endless_data_have_no_answer():
    assert find_flipped_bit(5, 5, 10) is None
    assert find_flipped_bit(5, 6, 2**29) is None

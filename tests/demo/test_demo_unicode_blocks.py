import itertools
import sys

import pytest

from flowstream.demo.unicode_blocks import BLOCKS, NO_BLOCK, block_of


def test_blocks_are_sorted_disjoint_and_named_once():
    """Every code point is in one block at the most, and no name stands for two ranges."""
    assert all(0 <= first <= last <= sys.maxunicode for first, last, _ in BLOCKS)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(BLOCKS))
    assert len({name for _, _, name in BLOCKS}) == len(BLOCKS)


def test_blocks_begin_and_end_where_unicode_puts_them():
    """Blocks are whole columns of sixteen code points, as the standard lays them out."""
    assert all(first % 16 == 0 and last % 16 == 15 for first, last, _ in BLOCKS)


@pytest.mark.parametrize(
    ("char", "block"),
    [
        ("A", "Basic Latin"),
        ("é", "Latin-1 Supplement"),
        ("Ω", "Greek and Coptic"),
        ("ж", "Cyrillic"),
        ("א", "Hebrew"),
        ("漢", "CJK Unified Ideographs"),
        ("\U00020000", "CJK Unified Ideographs Extension B"),
        ("한", "Hangul Syllables"),
        ("€", "Currency Symbols"),
        ("😀", "Emoticons"),
        ("\U0010ffff", "Supplementary Private Use Area-B"),
    ],
)
def test_a_character_is_in_the_block_that_it_is_known_for(char, block):
    """Well-known characters are found in the blocks that the standard's charts show them in."""
    assert block_of(ord(char)) == block


def test_the_edges_of_a_block_belong_to_it_and_what_is_between_blocks_to_none():
    """The first and last code point of a block are inside, and gaps are No_Block."""
    for first, last, name in BLOCKS:
        assert block_of(first) == block_of(last) == name
    assert block_of(0x2FE0) == NO_BLOCK
    assert block_of(0xE0080) == NO_BLOCK
    assert block_of(-1) == NO_BLOCK

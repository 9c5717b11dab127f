"""Pairs of signatures that differ in few bits: a loop over all pairs that numba compiles.

NumPy takes three times as long, as it writes every pair's bits to memory, of which nearly none are wanted.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


def ones(word: Any) -> Any:
    """How many bits of a uint64 are set: LLVM knows these sums and makes one instruction of them."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@cache
def compiled() -> Callable[..., tuple[int, int]]:
    """`near(a, first, b, start, most, found)`, which runs without the GIL; compiled in each process.

    It looks for pairs that differ in at most most[1] bits and most[0] of the first word, or so from the other's
    negative. a: uint64 [n, W]; b: uint64 [m, W], first: its first words; start: the row of a to begin with; found:
    int64 [room, 3], room at least m, is filled with rows of a and of b and the number of bits. Returns how many were
    found, and the row of a to begin with next: n at the end, less when there was no room left.
    """
    from numba import njit  # takes a while to load, which those who look for no pairs need not wait for

    bits_of = njit(inline="always")(ones)

    @njit(
        "UniTuple(int64, 2)(uint64[:, ::1], uint64[::1], uint64[:, ::1], int64, UniTuple(int64, 2), int64[:, ::1])",
        nogil=True,
    )
    def near(a, first, b, start, most, found):
        (of_first, of_all), words, number = most, a.shape[1], 0
        for i in range(start, len(a)):
            if number + len(b) > len(found):
                return number, i
            own = a[i, 0]
            for j in range(len(b)):
                bits = bits_of(own ^ first[j])
                if of_first < bits and bits < 64 - of_first:
                    continue
                for word in range(1, words):
                    bits += bits_of(a[i, word] ^ b[j, word])
                if bits <= of_all or bits >= 64 * words - of_all:
                    found[number, 0], found[number, 1], found[number, 2] = i, j, bits
                    number += 1
        return number, len(a)

    return near

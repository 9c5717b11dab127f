"""Random numbers as pure functions of (seed, stream, position).

Philox is counter-based: word i of a stream is computed, not reached, so any slice of a stream costs only
its own length. Only the raw 64-bit words are used: NumPy guarantees them, whereas the methods of
`Generator` (permutation, integers, ...) may change between NumPy versions and would change every order.
"""

import numpy as np

WORDS_PER_COUNT = 4  # Philox 4x64 makes four words per counter step


def raw_words(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """Words [start, start + count) of a stream: uint64 [count]. `start` must be a multiple of 4."""
    assert start % WORDS_PER_COUNT == 0, start
    generator = np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64),
        counter=np.array([start // WORDS_PER_COUNT, 0, 0, 0], dtype=np.uint64),
    )
    return generator.random_raw(count)


def unit_floats(words: np.ndarray) -> np.ndarray:
    """uint64 words to float64 in [0, 1): the upper 53 bits, equally spaced."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """A shuffled range: int64 [count]. Sorting random keys is O(n log n), 10 ms for 212,000."""
    keys = raw_words(seed, stream, 0, count)
    order = np.argsort(keys)
    ranked = keys[order]
    if (ranked[1:] == ranked[:-1]).any():  # which no seed in use has: such an order would be the processor's
        return np.argsort(keys, kind="stable")  # in three times the time
    return order

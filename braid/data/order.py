"""The order of a source: row of a position, without a table of all rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from braid.randomness import Keys, derive, integers

ROUNDS = 12
"""Rounds of the Feistel network."""


def rows_at(seed: int, positions: Tensor, n: int) -> Tensor:
    """Return the row [P] of a source of n rows at each global position [P].

    The n positions of an epoch, those with the same positions // n, meet every row once, in an
    order of their own.
    """
    epoch = positions // n
    key = derive(torch.full_like(positions, seed), "order", epoch)
    return permuted(key, positions - epoch * n, n)


def permuted(key: Tensor, index: Tensor, n: int) -> Tensor:
    """Return where keyed permutations of 0 .. n - 1 move numbers, [P] for keys [P], indices [P].

    A number is a pair of digits to which a Feistel network adds keyed hashes of each other in turn
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). There are as few pairs beyond
    n as can be; one that lands there is moved on until it is back.
    """
    wide = math.isqrt(n - 1) + 1
    high = -(-n // wide)  # pairs: high * wide >= n
    out, left = index.clone(), torch.arange(len(index))
    while len(left):
        out[left] = moved = _network(key[left], out[left], high, wide)
        left = left[moved >= n]
    return out


def _network(key: Tensor, number: Tensor, high: int, wide: int) -> Tensor:
    """Move numbers [P] within 0 .. high * wide - 1, one to one."""
    first, second = number // wide, number % wide
    for turn in range(0, ROUNDS, 2):
        first = (first + _hash(key, turn, second, high)) % high
        second = (second + _hash(key, turn + 1, first, wide)) % wide
    return first * wide + second


def _hash(key: Tensor, turn: int, digit: Tensor, below: int) -> Tensor:
    return integers(Keys(derive(key, turn, digit)), below, (len(key),))

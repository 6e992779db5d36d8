"""Who is asked for, one after another, and what an LRU cache would have had of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


def zipf(ids: Sequence[str], count: int) -> list[str]:
    """So many ids, the n-th most popular in proportion to 1/n; which is popular has nothing to do with its number."""
    rng = np.random.default_rng(0)
    popular = rng.permutation(ids)
    chances = 1 / np.arange(1, len(ids) + 1)
    picked: list[str] = rng.choice(popular, count, p=chances / chances.sum()).tolist()
    return picked


def lru_hits(trace: Sequence[str], size: int) -> int:
    """How many of a trace an LRU cache of that size would have had."""
    cache: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for avatar in trace:
        hits += avatar in cache
        cache[avatar] = None
        cache.move_to_end(avatar)
        if len(cache) > size:
            cache.popitem(last=False)
    return hits

from __future__ import annotations

import pytest

from perf.cases.catalogue import AVATARS, lru_misses, shade_of


@pytest.mark.parametrize(
    ("order", "room", "misses"),
    [
        ([], 1, 0),
        ([1, 1, 1], 1, 1),
        ([1, 2, 1, 2], 1, 4),
        ([1, 2, 1, 2], 2, 2),
        # The second 1 keeps it in, so that 2 is the one to go.
        ([1, 2, 1, 3, 1, 2], 2, 4),
    ],
)
def test_misses_of_an_lru(order: list[int], room: int, misses: int) -> None:
    assert lru_misses(order, room) == misses


def test_every_avatar_has_a_colour_of_its_own() -> None:
    shades = {shade_of(number) for number in range(AVATARS)}
    assert len(shades) == AVATARS
    assert all(0 <= level < 256 for shade in shades for level in shade)

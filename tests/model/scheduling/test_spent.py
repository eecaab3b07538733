from __future__ import annotations

from qwen_edit.scheduling.spent import HALF_LIFE_SECONDS, LIGHT_SECONDS, Spent


def test_what_was_taken_lately_is_counted_in_levels_and_forgotten_by_halves() -> None:
    spent = Spent()
    spent.add("light", 0.9 * LIGHT_SECONDS, 0.0)
    for _ in range(4):
        spent.add("heavy", 2 * LIGHT_SECONDS, 0.0)
    levels = [[spent.level(who, now) for who in ("light", "heavy", "nobody")] for now in (0.0, HALF_LIFE_SECONDS)]
    assert levels == [[0, 8, 0], [0, 4, 0]]
    spent.add("light", 0.9 * LIGHT_SECONDS, HALF_LIFE_SECONDS)
    assert spent.level("light", HALF_LIFE_SECONDS) == 1
    assert spent.level("heavy", 100 * HALF_LIFE_SECONDS) == 0

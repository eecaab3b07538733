"""What a forward costs, learned from those that were made. Pure: no torch, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

WINDOW = 256  # forwards that are remembered
NEARLY_ALIKE = 1e-6  # squared sine of the angle between tokens and squares below which neither is told by the other


class ForwardCost:
    """Seconds of a forward as a · tokens + b · squares, both at least 0: layers see tokens, attention pairs of them."""

    def __init__(self, window: int = WINDOW) -> None:
        self._forwards: deque[tuple[float, float, float]] = deque(maxlen=window)  # tokens, squares, seconds
        self._fitted: tuple[float, float] | None = None

    def observe(self, row_tokens: Sequence[int], seconds: float) -> None:
        self._forwards.append((*_features(row_tokens), seconds))
        self._fitted = None

    def seconds(self, row_tokens: Sequence[int]) -> float:
        """0 as long as nothing was observed."""
        if self._fitted is None:
            self._fitted = self._fit()
        per_token, per_square = self._fitted
        tokens, squares = _features(row_tokens)
        return per_token * tokens + per_square * squares

    def _fit(self) -> tuple[float, float]:
        """Least squares of the relative errors, so that short forwards count as much as long ones."""
        weighed = [(tokens / seconds, squares / seconds) for tokens, squares, seconds in self._forwards if seconds]
        if not weighed:
            return 0.0, 0.0
        tt = sum(t * t for t, _ in weighed)
        ts = sum(t * s for t, s in weighed)
        ss = sum(s * s for _, s in weighed)
        t, s = (sum(each) for each in zip(*weighed, strict=True))
        determinant = tt * ss - ts * ts
        if determinant > NEARLY_ALIKE * tt * ss:  # else the forwards do not tell the two apart
            per_token, per_square = (t * ss - s * ts) / determinant, (s * tt - t * ts) / determinant
            if per_token >= 0 and per_square >= 0:
                return per_token, per_square
            if per_token < 0:
                return 0.0, s / ss
        return t / tt, 0.0


def _features(row_tokens: Sequence[int]) -> tuple[float, float]:
    return float(sum(row_tokens)), float(sum(tokens * tokens for tokens in row_tokens))

"""What the model learns of an edit's place among the others, beside the edit itself."""

from __future__ import annotations

from dataclasses import dataclass

CALLER_CHARS = 64


@dataclass(frozen=True)
class Standing:
    """Moments are of this process's monotonic clock; they travel as seconds from now, so no clocks need to agree."""

    arrived: float  # the request
    deadline: float  # nobody waits for it any longer
    caller: str = ""  # whose edits take turns with others'; empty: nobody's
    siblings: int = 1  # outputs of the request, this one included
    order: float | None = None  # the place that the model gave the edit; None: it has not answered yet

    def parameters(self, now: float, *, continued: bool) -> dict[str, float | int | str]:
        """The inference call's; a model that does not know one ignores it."""
        told: dict[str, float | int | str] = {"age": now - self.arrived, "time_left": max(self.deadline - now, 0.0)}
        if self.caller:
            told["caller"] = self.caller[:CALLER_CHARS]
        if self.order is not None:
            told["order"] = self.order - now
        if self.siblings > 1 and not continued:
            told["siblings"] = self.siblings
        return told

"""A request whose batch dimension is above 1: so many edits, which are taken together and answered together.

They are edits like any others to the engine, siblings of each other. What they share is one call: it has the answers of
all of them, row by row, or the first error of any.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from qwen_edit.errors import BadRequest, EditError, Failed
from qwen_edit.families.family import Size
from qwen_edit.hints import NO_HINTS, Hints
from qwen_edit.request import CALL, Defaults, EditRequest, parse
from qwen_edit.settings import Limits

if TYPE_CHECKING:
    from qwen_edit.job import Outcome

Array = npt.NDArray[Any]

OPAQUE = 255  # of alpha


def parse_rows(
    tensors: Mapping[str, Array],
    limits: Limits,
    defaults: Defaults,
    *,
    request_id: str,
    now: float,
    unix_now: float,
    hints: Hints = NO_HINTS,
    max_rows: int,
) -> list[EditRequest]:
    """The edits in `tensors`, (rows, …) each; raises BadRequest naming the tensor, the value and the row.

    `max_rows`: edits that the server holds at most. `now` is what the monotonic clock says.
    """
    count = max((len(tensor) for tensor in tensors.values()), default=1)
    if count <= 1:
        one = parse(tensors, limits, defaults, request_id=request_id, now=now, unix_now=unix_now, hints=hints)
        return [one]
    if count > max_rows:
        raise BadRequest("image", f"batch size {count}: this server holds at most {max_rows} edits")
    request_id = request_id or secrets.token_hex(8)
    hints = replace(hints, siblings=count)
    edits = []
    for row in range(count):
        values = {name: tensor[row : row + 1] for name, tensor in tensors.items()}
        name = _row_id(request_id, row)
        try:
            edit = parse(values, limits, defaults, request_id=name, now=now, unix_now=unix_now, hints=hints)
            _refuse_segments(edit, count)
        except BadRequest as error:
            raise of_row(error, row, count) from None
        edits.append(edit)
    return edits


def of_row(error: EditError, row: int, count: int) -> EditError:
    """The error as the whole request has it, with the row whose fault it is: the other kinds are nobody's."""
    where = f"row {row + 1} of {count}"
    if isinstance(error, BadRequest):
        return BadRequest(error.tensor, f"{where}: {error.detail}")
    return Failed(f"{where}: {error}") if isinstance(error, Failed) else error


class WholeReply(Protocol):
    """Where a request's answer goes: exactly one of `outcomes` and `error` is called, once."""

    def outcomes(self, outcomes: Sequence[Outcome]) -> None: ...

    def error(self, error: EditError) -> None: ...

    def cancelled(self) -> bool: ...


class Batch:
    """Gathers the answers of a request's rows; for several threads."""

    def __init__(self, reply: WholeReply, count: int) -> None:
        self._reply = reply
        self._count = count
        self._outcomes: dict[int, Outcome] = {}  # by row
        self._size: tuple[int, Size] | None = None  # of all answers, and the row that was the first to have one
        self._over = False  # answered: no row is wanted any more
        self._left = False  # by its client, which is told only once
        self._lock = threading.RLock()  # guards all of these

    def rows(self) -> list[RowReply]:
        return [RowReply(self, row) for row in range(self._count)]

    def sized(self, row: int, size: Size) -> None:
        with self._lock:
            first, agreed = self._size = self._size or (row, size)
        if size != agreed:
            told, other = ("x".join(map(str, each)) for each in (size, agreed))
            raise BadRequest(
                "size", f"{told}, where row {first + 1} has {other}: the pictures of one request have one size"
            )

    def outcome(self, row: int, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[row] = outcome
            if self._over or len(self._outcomes) < self._count:
                return
            self._over = True
        outcomes = [self._outcomes[each] for each in range(self._count)]
        self._answer(lambda: self._reply.outcomes(outcomes))

    def error(self, row: int, error: EditError) -> None:
        with self._lock:
            answered, self._over = self._over, True
        if not answered:
            self._answer(lambda: self._reply.error(of_row(error, row, self._count)))

    def cancelled(self) -> bool:
        with self._lock:
            if not self._over:  # else it must not be asked
                self._left = self._left or self._reply.cancelled()
            return self._over or self._left

    def _answer(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception:
            with self._lock:
                self._over = False  # so that an error can still be told
            raise


@dataclass(frozen=True)
class RowReply:
    """Where the engine answers one row."""

    batch: Batch
    row: int

    def sized(self, size: Size) -> None:
        self.batch.sized(self.row, size)

    def outcome(self, outcome: Outcome) -> None:
        self.batch.outcome(self.row, outcome)

    def error(self, error: EditError) -> None:
        self.batch.error(self.row, error)

    def cancelled(self) -> bool:
        return self.batch.cancelled()


def stacked(rows: Sequence[Mapping[str, Array | None]]) -> dict[str, Array]:
    """The outputs of all rows, (rows, …) each. Where one picture is not opaque, all of them have an alpha."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return {name: _stack([_given(row, name) for row in rows]) for name in names}


def _stack(values: Sequence[Array]) -> Array:
    """Without a copy where there is one."""
    return np.stack(values) if len(values) > 1 else values[0][None]


def _given(row: Mapping[str, Array | None], name: str) -> Array:
    value, image = row[name], row["image"]
    if name == "alpha" and value is None and image is not None:
        return np.full(image.shape[:2], OPAQUE, np.uint8)
    assert value is not None, f"not all rows have the output {name}"
    return value


def _row_id(request_id: str, row: int) -> str:
    """As the outputs of one HTTP request are told apart: `EDIT-1`, or `EDIT-1.2` of `EDIT.2`."""
    call = CALL.search(request_id)
    edit = CALL.sub("", request_id)
    return f"{edit}-{row + 1}{call[0] if call else ''}"


def _refuse_segments(edit: EditRequest, count: int) -> None:
    if edit.continued or edit.stop_step < edit.num_inference_steps:
        name, value = ("start_step", edit.start_step) if edit.continued else ("stop_step", edit.stop_step)
        raise BadRequest(name, f"{value}: in a batch of {count}, edits run in one piece: send one a request")

"""What an edit can end in besides a picture.

EditError
├── BadRequest   invalid     the request cannot be served as it is
├── UnknownPictures  unknown_pictures  pictures that were only named: they have to be sent
├── QueueFull    queue_full  as many jobs as MAX_JOBS are waiting or running, or this one would not be done in time
├── Draining     draining    the server is stopping
├── Cancelled    cancelled   the client asked for an end, or the edit cannot end in its time any more
└── Failed       failed      the model failed on this job
"""

from __future__ import annotations

MAX_SHOWN = 80  # characters of a value that an error message repeats


class EditError(Exception):
    """`word` begins the message that the client sees; clients act on it."""

    word: str

    @property
    def message(self) -> str:
        return f"{self.word}: {self}"


class BadRequest(EditError):
    word = "invalid"

    def __init__(self, tensor: str, detail: str) -> None:
        super().__init__(f"{tensor}: {detail}")
        self.tensor = tensor
        self.detail = detail


class UnknownPictures(EditError):
    word = "unknown_pictures"

    def __init__(self) -> None:
        super().__init__("a picture that was named is not encoded here: send the pictures")


class QueueFull(EditError):
    word = "queue_full"


class Draining(EditError):
    word = "draining"


class Cancelled(EditError):
    word = "cancelled"

    def __init__(self, reason: str = "the client cancelled this edit") -> None:
        super().__init__(reason)


class Failed(EditError):
    word = "failed"


def shown(value: object) -> str:
    """`value` as an error message repeats it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"

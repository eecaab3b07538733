"""How a call to Triton breaks off, as opposed to what the model answers."""

from __future__ import annotations


class Interrupted(Exception):
    """The machinery broke off: no connection, no answer in time, or one that is not the model's."""


class TritonFault(Interrupted):
    """An error of Triton's own that may be the call's doing: the same one twice is no accident."""


class UnknownPictures(Interrupted):
    """Whose names alone were sent: this server has not seen them, or has forgotten them."""


class Unreached(Interrupted):
    """The model has not got the segment: nobody listens, a balancer has no server, or it takes no new edits."""

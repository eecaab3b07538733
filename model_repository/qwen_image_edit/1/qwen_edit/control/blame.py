"""Which edit a worker died of.

A worker notes what it is at. When it has died, the next one finds the note, and the edits in it get a record. One that
was at work alone when two workers died is not taken a third time. Where several shared a forward nobody is blamed, but
the third time each runs alone; while such suspects are here one thing is done at a time, so that a death has one name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from qwen_edit.control.private_folder import private_folder
from qwen_edit.errors import Failed

RECORD_SECONDS = 600.0  # of an edit that was not sent again
# What a record says of each death: nothing else was done, something else was by another thread, a forward was shared.
SOLE, BESIDE, SHARED = "obs"


class Unblamed:
    """Of an engine whose process nobody starts again."""

    def take(self, edit_id: str) -> bool:
        return False

    def end(self, edit_id: str) -> None: ...


class Blame:
    """Of one instance; for any thread."""

    def __init__(self, folder: Path, instance: str) -> None:
        self._notes, self._records = folder / "at_work", folder / "deaths"
        self._note = self._notes / f"{instance}.json"
        self._at_work: dict[int, frozenset[str]] = {}  # names of edits, by the thread that works on them
        self._recorded: set[str] = set()  # edits in this engine that have a record
        self._suspects: set[str] = set()  # those of them that run alone
        self._guard = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._charge()

    def take(self, edit_id: str) -> bool:
        """Whether the edit has to run alone; raises Failed where it is not taken any more."""
        name = _name(edit_id)
        record = self._record(name)
        if len(record) > 1 and SOLE in record:
            raise Failed(f"{len(record)} workers died or hung while they worked on this edit")
        if not record:
            return False
        suspect = SOLE in record or BESIDE in record or len(record) > 1
        with self._guard:
            self._recorded.add(name)
            if suspect:
                self._suspects.add(name)
        return suspect

    def end(self, edit_id: str) -> None:
        """The edit was answered, and nobody died of it."""
        name = _name(edit_id)
        with self._guard:
            if name in self._recorded:
                self._recorded.remove(name)
                self._suspects.discard(name)
                (self._records / name).unlink(missing_ok=True)
            for thread, names in self._at_work.items():
                self._write(thread, names - {name})

    @contextlib.contextmanager
    def at_work(self, *edit_ids: str, keep: bool = False) -> Iterator[bool]:
        """Around work for these edits: whether it has to be done, and not only begun, before anything else is.

        `keep`: it will be repeated, and the note stays until then.
        """
        thread, exclusive = threading.get_ident(), bool(self._suspects)
        with self._one_at_a_time if exclusive else contextlib.nullcontext():
            with self._guard:
                self._write(thread, frozenset(map(_name, edit_ids)))
            try:
                yield exclusive
            finally:
                if exclusive or not keep:
                    with self._guard:
                        self._write(thread, frozenset())

    def _write(self, thread: int, names: frozenset[str]) -> None:
        if self._at_work.get(thread, frozenset()) == names:
            return
        self._at_work[thread] = names
        written = self._note.with_suffix(".new")
        noted = [sorted(each) for each in self._at_work.values() if each]
        with contextlib.suppress(OSError):  # a full disk costs the note, not the edit
            private_folder(self._notes)
            written.write_text(json.dumps({"pid": os.getpid(), "at_work": noted}))
            written.rename(self._note)

    def _charge(self) -> None:
        """Enters into the records what the last worker of this instance was at when it died."""
        private_folder(self._records)
        private_folder(self._notes)
        if not self._note.exists():
            return
        noted = json.loads(self._note.read_text())["at_work"]
        for names in noted:
            kind = SHARED if len(names) > 1 else BESIDE if len(noted) > 1 else SOLE
            for name in names:
                with contextlib.suppress(OSError):  # on a full disk nobody is blamed, and the worker starts
                    (self._records / name).write_text(self._record(name) + kind)
        self._note.unlink()

    def _record(self, name: str) -> str:
        path = self._records / name
        try:
            recent = time.time() - path.stat().st_mtime < RECORD_SECONDS
            return path.read_text() if recent else ""
        except FileNotFoundError:
            return ""


def _name(edit_id: str) -> str:
    return hashlib.sha256(edit_id.encode()).hexdigest()

"""A model repository whose device breaks when it is told to, and whose worker dies of some edits."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.kit.servers import PROJECT

CODE = """

_load = load
_broken = []


def load(*arguments):
    loaded = _load(*arguments)
    loaded.pipeline.parts.transformer.register_forward_pre_hook(_fail_once_broken)
    return loaded


def _fail_once_broken(*ignored):
    asked = Path({order!r})
    if asked.exists():
        _broken.append(asked.read_text())
        asked.unlink()
    if _broken:
        raise RuntimeError(_broken[0])
"""


# Of an edit with this in its prompt and an odd seed a worker dies in its second step: by a signal, and the next one by
# hanging.
DEADLY = "deadly"
DEATHS = """

_step = PipelineWorker.step


def step(self, jobs, **options):
    if any({word!r} in job.request.prompt and job.request.seed % 2 and job.state.step == 1 for job in jobs):
        import os, pathlib, time

        died = pathlib.Path({died!r})
        if died.exists():
            time.sleep(1000)
        died.touch()
        os.kill(os.getpid(), 9)
    _step(self, jobs, **options)


PipelineWorker.step = step
"""

# Every edit is asked about once more when it is answered, as the engine does that looks at it while the coder answers.
LATE_QUESTION = """

_send = Answers._send


def send(self, job, *given, **named):
    _send(self, job, *given, **named)
    job.reply.cancelled()


Answers._send = send
"""


class FaultyRepository:
    """A copy of `model_repository/` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "repository"
        self._order = folder / "order"
        shutil.copytree(PROJECT / "model_repository", self.path, ignore=shutil.ignore_patterns("__pycache__"))
        loading = self.path / "qwen_image_edit/1/qwen_edit/loading/load.py"
        loading.write_text(loading.read_text() + CODE.format(order=str(self._order)))
        worker = self.path / "qwen_image_edit/1/qwen_edit/worker.py"
        worker.write_text(worker.read_text() + DEATHS.format(word=DEADLY, died=str(folder / "died")))
        answers = self.path / "qwen_image_edit/1/qwen_edit/beside/answers.py"
        answers.write_text(answers.read_text() + LATE_QUESTION)

    def break_device(self, words: str) -> None:
        """From the next forward on every one of that process raises a RuntimeError with these words."""
        written = self._order.with_suffix(".new")
        written.write_text(words)
        written.rename(self._order)

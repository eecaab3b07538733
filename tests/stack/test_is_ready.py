"""What model.py tells a Triton that asks it, from 26.03 on: it is asked here by a thread beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.kit.servers import PROJECT
from tests.kit.stacks import supervise

ASKING = """
import threading

class Asked(TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self):
        while True:
            Path("{told}").write_text(repr(self.is_ready()))
            time.sleep(0.02)


TritonPythonModel = Asked
"""


def test_a_model_is_ready_until_it_drains(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    repository, told = tmp_path / "model_repository", tmp_path / "told"
    shutil.copytree(PROJECT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    with (repository / "qwen_image_edit" / "1" / "model.py").open("a") as source:
        source.write(ASKING.format(told=told))
    with supervise(checkpoint("plus"), MODEL_REPOSITORY=str(repository), REFERENCE_AREA="4096") as server:
        server.wait_for(told.exists)
        server.wait_for(lambda: told.read_text() == "True")
        server.process.terminate()
        server.wait_for(lambda: told.read_text() == "False")

"""The supervisor and the engine know nothing of each other's code: what passes between them is compared here."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import qwen_edit.settings
import requests

from standalone import engines, supervisor
from standalone.plan import plan
from standalone.settings import Settings
from standalone.tritonserver import TritonServer
from tests.kit.servers import PROJECT, Server

MODEL = PROJECT / "model_repository" / "qwen_image_edit" / "1" / "model.py"


def test_the_supervisor_reads_every_figure_that_the_engine_shows(alone: Server, photo: Callable[[str], bytes]) -> None:
    before = state_of(alone)
    fields = {"prompt": "x", "size": "64x64", "n": "2", "num_inference_steps": "3", "true_cfg_scale": "4"}
    answer = requests.post(f"{alone.url}/v1/images/edits", data=fields, files={"image": photo("cat")}, timeout=60)
    assert answer.status_code == 200
    alone.wait_for(lambda: state_of(alone).ended == before.ended + 2)
    after = state_of(alone)
    assert after.steps == before.steps + 6
    assert before.forwards < after.forwards <= before.forwards + 6
    assert after.encode_seconds > before.encode_seconds
    assert after.denoise_seconds > before.denoise_seconds
    assert after.heartbeat > before.heartbeat > 0
    assert after.jobs == alone.metric("qwen_edit_jobs") == 0


def state_of(server: Server) -> engines.EngineState:
    (state,) = engines.parse(requests.get(server.triton_metrics, timeout=10).text).values()
    return state


def test_an_engine_looks_for_the_folder_where_the_supervisor_made_it(tmp_path: Path) -> None:
    triton = TritonServer(Path("/bin/true"), backends=None, library_path=())
    (planned,) = plan(
        Settings.from_environment({}), triton, model_dir="/m", shm_prefix="p_", folder=tmp_path, environ={}
    )
    assert planned.control_dir.is_dir()
    assert Path(qwen_edit.settings.Settings.from_environment(planned.environment).control_dir) == planned.control_dir


def test_the_file_that_tells_of_a_drain_has_the_same_name_on_both_sides() -> None:
    assert names_in_the_folder(MODEL) == {supervisor.DRAINING, "cancelled"}


def names_in_the_folder(source: Path) -> set[str]:
    """The texts that stand behind a slash in the code."""
    divisions = [node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.BinOp)]
    behind = [node.right for node in divisions if isinstance(node.op, ast.Div)]
    return {node.value for node in behind if isinstance(node, ast.Constant) and isinstance(node.value, str)}

"""`make verify`: every row of its report, and its status where something is off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from qwen_edit.forward import places

from benchmarks import verify

OF_ALL = ["latents of all of these in shared forwards", "latents of the first in two segments"]
OF_VAE = ["VAE, encoding", "VAE, decoding"]
EDITS = [
    "latents of an edit of one picture", "latents of one with guidance", "latents of one of 3 pictures", *OF_ALL,
    "grey levels outside a mask",
]  # fmt: skip
TOGETHER = "rows of any shape in one forward"
RIGHT = {
    "2.1": [f"prefixes made once and {TOGETHER}", *EDITS],
    "layered": [
        TOGETHER, "queries, keys and values in one product", "latents of a picture taken apart",
        "latents of one taken apart with guidance", *OF_ALL, *OF_VAE,
    ],
}  # fmt: skip


def verified(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, str]]:
    """Its status, and by what was checked whether it was right."""
    monkeypatch.setenv("REFERENCE_AREA", "4096")
    monkeypatch.setattr("sys.argv", ["verify", str(folder), "--device", "cpu", "--steps", "4", "--out", str(out)])
    status = verify.main()
    cells = [line.strip("| ").split(" | ") for line in (out / "report.md").read_text().splitlines()]
    return status, {row[0]: row[3] for row in cells if len(row) == 4 and row[3].strip("*") in ("yes", "no")}


@pytest.mark.parametrize("family", RIGHT)
def test_a_checkpoint_that_is_right_has_a_report_that_says_so_and_a_sheet_of_pictures(
    family: str, sensitive: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, found = verified(sensitive(family), tmp_path, monkeypatch)
    assert found == dict.fromkeys(RIGHT[family], "yes")
    assert status == 0
    with Image.open(tmp_path / "pictures.png") as sheet:
        assert sheet.width == 4 * verify.SHOWN


def test_a_fault_that_the_server_does_not_serve_is_told_by_the_status(
    sensitive: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = places.in_real_numbers
    monkeypatch.setattr(places, "in_real_numbers", lambda angles: right([each.roll(1, 0) for each in angles]))
    status, found = verified(sensitive("plus-2511"), tmp_path, monkeypatch)
    # Edits come out right all the same.
    assert found == {TOGETHER: "**no**", **dict.fromkeys([*EDITS, *OF_VAE], "yes")}
    assert status == 1


def test_what_cannot_be_loaded_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify", str(tmp_path / "nowhere")])
    assert verify.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

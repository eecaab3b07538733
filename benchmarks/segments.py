"""What segments cost: wall time of edits in segments over the same edits in one piece, in one run, turn by turn.

Run: make bench-segments ARGS="--checkpoint tiny"
     make bench-segments ARGS="--checkpoint medium --size 128x128 --steps 20 --rounds 4"
     make bench-segments ARGS="--steps 100 --megabytes 7"    # ten segments of an edit of a large photograph
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from checkpoints.architectures import SIZES
from checkpoints.random_weights import write_checkpoint
from tests.kit.servers import PROJECT, Server, serve, serve_shim

PHOTO = PROJECT / "tests" / "data" / "cat.jpg"
NOISE_BYTES = 1.17  # of JPEG for a pixel


def photo(megabytes: float) -> bytes:
    """The cat, or noise of about that size."""
    if not megabytes:
        return PHOTO.read_bytes()
    side = int((megabytes * 1e6 / NOISE_BYTES) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "plus", "plus", size=arguments.checkpoint)
        with (
            serve(checkpoint, SEGMENT_STEPS=str(arguments.segment_steps), REFERENCE_AREA="16384") as segmented,
            serve_shim(f"http://{segmented.triton_http}", SEGMENT_STEPS="0") as whole,
        ):
            compare(segmented, whole, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=SIZES, default="tiny")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--segment-steps", type=int, default=10)
    parser.add_argument("--megabytes", type=float, default=0.0, help="of the picture; 0: a small photograph")
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


def compare(segmented: Server, whole: Server, arguments: argparse.Namespace) -> None:
    steps = str(arguments.steps)
    picture = photo(arguments.megabytes)
    data = {"prompt": "x", "size": arguments.size, "seed": "1", "num_inference_steps": steps, "true_cfg_scale": "1"}
    pictures = {edit(shim, data, picture)[1] for shim in (segmented, whole)}  # warms up as well
    ratios, seconds = [], []
    for _ in range(arguments.rounds):
        pair = [edit(shim, data, picture)[0] for shim in (segmented, whole)]
        ratios.append(pair[0] / pair[1])
        seconds.append(pair)
    ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"{arguments.checkpoint}, {arguments.size}, {arguments.steps} steps, {arguments.segment_steps} a segment, "
        f"a picture of {len(picture) / 1e6:.1f} MB, {arguments.rounds} rounds\n"
        f"segmented {ours:.3f} s, in one piece {theirs:.3f} s (medians); ratio {statistics.median(ratios):.3f} "
        f"(median of pairs, from {min(ratios):.3f} to {max(ratios):.3f}); "
        f"pictures {'equal' if len(pictures) == 1 else 'DIFFERENT'}"
    )


def edit(shim: Server, data: dict[str, str], picture: bytes) -> tuple[float, str]:
    """Seconds, and the picture."""
    started = time.monotonic()
    answer = requests.post(f"{shim.url}/v1/images/edits", data=data, files={"image": picture}, timeout=600)
    seconds = time.monotonic() - started
    answer.raise_for_status()
    return seconds, answer.json()["data"][0]["b64_json"]


if __name__ == "__main__":
    main()

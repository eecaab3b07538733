"""What libraries read of the environment when they are imported."""

from __future__ import annotations

from collections.abc import MutableMapping

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is what torch called it before


def prepare(environ: MutableMapping[str, str], *, torch_threads: int) -> None:
    """Call it before torch is imported."""
    environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    environ["OMP_NUM_THREADS"] = str(torch_threads)
    # Sizes that change with every edit fragment a card which is three quarters full of weights.
    if not any(environ.get(name) for name in ALLOCATOR):
        environ[ALLOCATOR[0]] = "expandable_segments:True"

"""The demo checkpoint: a toy Qwen-Image-Edit that follows simple edits, and what trains it."""

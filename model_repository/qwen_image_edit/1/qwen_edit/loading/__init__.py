"""Checkpoint to pipeline: found, loaded, changed as the settings want it, placed."""

"""One denoising step: rows, the transformer, noise levels."""

"""Kinds of grey TIFF that Pillow's decoder reads, but its table of kinds does not know.

The shim and the model have this file in common, byte for byte, as neither imports the other.
"""

from __future__ import annotations

from PIL import TiffImagePlugin

UNSIGNED, SIGNED = 1, 2  # sample formats
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
# By byte order, sample format and bits; which level is white is the same to the decoder.
MODES = {
    (b"II", UNSIGNED, 16): ("I;16", "I;16"),
    (b"MM", UNSIGNED, 16): ("I;16B", "I;16B"),
    (b"II", SIGNED, 16): ("I", "I;16S"),
    (b"MM", SIGNED, 16): ("I", "I;16BS"),
    (b"II", UNSIGNED, 32): ("I", "I;32N"),
    (b"MM", UNSIGNED, 32): ("I", "I;32B"),
    (b"II", SIGNED, 32): ("I", "I;32S"),
    (b"MM", SIGNED, 32): ("I", "I;32BS"),
}


def register() -> None:
    for (order, sample_format, bits), mode in MODES.items():
        for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            kind = (order, photometric, (sample_format,), 1, (bits,), ())
            TiffImagePlugin.OPEN_INFO.setdefault(kind, mode)

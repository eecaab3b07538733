"""Encoded bytes → RGB pictures as the pipelines take them."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator

from PIL import ExifTags, Image, UnidentifiedImageError

from qwen_edit.errors import BadRequest
from qwen_edit.families.asked import MAX_ASPECT
from qwen_edit.families.family import Size
from qwen_edit.pictures import jpeg_end, png, tiff_kinds
from qwen_edit.pictures.bombs import CountedReads, TooLaborious, check_header, check_work, scans_of_jpeg
from qwen_edit.pictures.colour import Colours
from qwen_edit.pictures.depth import BAND_PIXELS, Depth
from qwen_edit.pictures.pixel_work import JPEGS, most_pixels

# Formats whose decoders are worth exposing to strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
ALLOWED = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF is allowed"
SPARE = 4  # times the pixels that are needed: with less, the shrinking shows

tiff_kinds.register()


class PictureFile:
    """An encoded picture; pixels are counted before any is decoded, which is done when they are asked for."""

    def __init__(self, data: bytes, tensor: str, max_pixels: int) -> None:
        chunks = png.read(data) if data.startswith(png.SIGNATURE) else None
        self._data = chunks.data if chunks else data
        check_header(self._data)
        self._picture = Image.open(CountedReads(self._data), formats=FORMATS)
        allowed = most_pixels(self._picture.format, max_pixels)
        check_size(self._picture.size, tensor, allowed)
        check_work(self._picture, self._data, allowed)
        if chunks and chunks.transparency is not None:
            self._picture.info["transparency"] = chunks.transparency
        profile = chunks.profile if chunks else self._picture.info.get("icc_profile")
        # Pillow has no mode for grey with alpha in 16 bits, and reads it as RGBA.
        self.colours = Colours(profile, "LA" if chunks and chunks.is_grey else self._picture.mode)
        self._depth = Depth(self._picture)

    @property
    def size(self) -> Size:
        """Of the upright picture."""
        width, height = self._picture.size
        return (height, width) if self._turn in SIDEWAYS else (width, height)

    def decoded(self, needed_pixels: int | None = None) -> Image.Image:
        """Its first frame, upright, in its own mode, once.

        A JPEG may be smaller where no more than `needed_pixels` are needed of any picture. That is not to depend on
        what this one is needed for: it would not be the same to the last bit whenever it is decoded.
        """
        if needed_pixels and self._picture.format in JPEGS:
            self._shrink(SPARE * needed_pixels)
        frame = self._frame()
        self._load(needed_pixels)
        whole: Image.Image = self._picture
        if self._depth.is_deep:
            whole = self._depth.eight_bits(whole)
        if frame:
            whole = _alone(whole, frame)
        if self._turn is not None:
            whole = whole.transpose(self._turn)
        elif whole.format == "WEBP":  # whose decoder holds the picture two times more
            whole = whole.copy()
        del self._picture
        return whole

    def _load(self, needed_pixels: int | None) -> None:
        try:
            self._picture.load()
        except OSError:
            if self._picture.format not in JPEGS or not (
                data := jpeg_end.mended(self._data, scans_of_jpeg(self._data))
            ):
                raise
            self._picture = Image.open(io.BytesIO(data), formats=JPEGS)
            if needed_pixels:
                self._shrink(SPARE * needed_pixels)
            self._picture.load()

    def _frame(self) -> tuple[int, int, int, int] | None:
        """Of a GIF whose first picture does not fill its canvas, where it is: the rest is empty."""
        if self._picture.format != "GIF" or not self._picture.tile:
            return None
        box = self._picture.tile[0].extents
        return None if box is None or box == (0, 0, *self._picture.size) else box

    def _shrink(self, pixels: int) -> None:
        """To a half, a quarter or an eighth of each side, if that divides them and as many pixels are left."""
        width, height = self._picture.size
        for scale in (8, 4, 2):
            if width * height >= pixels * scale**2 and width % scale == height % scale == 0:
                self._picture.draft(None, (width // scale, height // scale))
                return

    @functools.cached_property
    def _turn(self) -> Image.Transpose | None:
        """As its EXIF orientation says; an EXIF block that cannot be read says nothing."""
        if self._picture.format == "TIFF":  # which Pillow turns itself
            return None
        try:
            return UPRIGHT.get(self._picture.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:
            return None


@contextlib.contextmanager
def judged(data: bytes, tensor: str) -> Iterator[None]:
    """What goes wrong within is the fault of the picture in `data`: raises BadRequest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadRequest:
        raise
    except (TooLaborious, MemoryError) as bomb:
        why = str(bomb) or "it takes too much memory"
        raise BadRequest(tensor, f"{len(data)} bytes, not a picture that is decoded here: {why}") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        what = "not a known kind of picture" if isinstance(error, UnidentifiedImageError) else "a damaged picture"
        raise BadRequest(tensor, f"{len(data)} bytes, {what}: {ALLOWED}") from None


def check_size(size: tuple[int, int], tensor: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadRequest(tensor, f"{width}x{height} is {width * height} pixels: at most {max_pixels} are allowed")
    if min(size) < 1 or max(size) > MAX_ASPECT * min(size):
        raise BadRequest(tensor, f"{width}x{height}: aspect ratios from 1:{MAX_ASPECT} to {MAX_ASPECT}:1 are allowed")


def flattened(picture: Image.Image) -> Image.Image:
    """As grey or RGB, transparency on white; its levels are what they are."""
    if has_transparency(picture):
        return on_white(picture, Colours(None, picture.mode))
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def has_transparency(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def on_white(picture: Image.Image, colours: Colours) -> Image.Image:
    """In sRGB, as browsers show it."""
    flat = Image.new("RGB", picture.size)
    for top, band in _bands_in_srgb(picture, colours):
        flat.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), (0, top))
    return flat


def in_srgb(picture: Image.Image, colours: Colours) -> Image.Image:
    """As RGBA."""
    whole = Image.new("RGBA", picture.size)
    for top, band in _bands_in_srgb(picture, colours):
        whole.paste(band, (0, top))
    return whole


def _bands_in_srgb(picture: Image.Image, colours: Colours) -> Iterator[tuple[int, Image.Image]]:
    """Its rows from the top, as RGBA: band by band, as it takes several times the memory."""
    rows = max(1, BAND_PIXELS // max(1, picture.width))
    for top in range(0, picture.height, rows):
        pixels = picture.crop((0, top, picture.width, min(top + rows, picture.height))).convert("RGBA")
        if colours.mode:
            alpha = pixels.getchannel("A")
            pixels = colours.to_srgb(pixels.convert(colours.mode))
            pixels.putalpha(alpha)
        yield top, pixels


def _alone(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """What lies in the box, and nothing around it."""
    canvas = Image.new("RGBA", picture.size)
    canvas.paste(picture.convert("RGBA").crop(box), box[:2])
    return canvas

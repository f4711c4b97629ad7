"""Image files: any mode that Pillow reads becomes 8-bit RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cast.config import Reading
from cast.errors import CastError

if TYPE_CHECKING:
    from cast.data.coco import ImageRecord

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
HALF = 127.5  # of 8-bit luminance
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as Pillow's mode L
STRETCHED = (1.0, 99.8)  # percentiles that become black and white
LEAST_RANGE = 8.0  # 8-bit levels
AS_IT_IS = Reading()
Pixels = NDArray[np.uint8] | NDArray[np.float32]


def read_image(path: Path, reading: Reading = AS_IT_IS) -> NDArray[np.uint8]:
    """Read one image.

    Grey, palette, CMYK and transparent images become RGB, 16 bits are scaled to 8, EXIF rotation is applied.

    Args:
        path: the image file.
        reading: whether to turn images with a bright background (median luminance above half) into negatives,
            and to stretch the contrast.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        CastError: the file is missing, truncated, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = _rgb(upright, path)
    except FileNotFoundError:
        raise CastError(f"{path}: image file is missing; check file_name and the image folder") from None
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if reading.invert_bright and np.median(pixels @ LUMINANCE) > HALF:
        pixels = 255 - pixels
    if reading.stretch_contrast:
        pixels = stretch_contrast(pixels)
    return np.round(pixels).astype(np.uint8, copy=False)


def stretch_contrast(pixels: Pixels) -> Pixels:
    """Map the luminance's percentiles `STRETCHED` to 0 and 255; all channels alike, so that hues stay.

    Args:
        pixels: RGB in 0 … 255, (H, W, 3).

    Returns:
        float32, clipped to 0 … 255. A range below `LEAST_RANGE` levels is stretched as if it were that wide:
        an empty image's noise stays noise.
    """
    low, high = np.percentile(pixels @ LUMINANCE, STRETCHED)
    stretched = (pixels - np.float32(low)) * np.float32(255 / max(high - low, LEAST_RANGE))
    return stretched.clip(0, 255)


def load_image(image_root: Path, record: ImageRecord, reading: Reading = AS_IT_IS) -> NDArray[np.uint8]:
    """Read the image of a record and make sure that it has the size its annotations were made for.

    Returns:
        RGB, uint8 (H, W, 3), with H and W as in the record.

    Raises:
        CastError: unreadable, or of another size than the record says.
    """
    path = image_root / record.file_name
    pixels = read_image(path, reading)
    _check_size(path, (pixels.shape[1], pixels.shape[0]), record)
    return pixels


def check_size(image_root: Path, record: ImageRecord) -> None:
    """Compare an image's header with its record, without decoding the pixels.

    Raises:
        CastError: unreadable, or of another size than the record says.
    """
    path = image_root / record.file_name
    try:
        with Image.open(path) as image:
            size = _upright_size(image)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    _check_size(path, size, record)


def decoded_size(path: Path) -> tuple[int, int]:
    """Decode an image file wholly: where a download was cut short, the header alone would look sound.

    Returns:
        Its upright height and width, the shape that `read_image` gives.

    Raises:
        CastError: the file is truncated, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            width, height = _upright_size(image)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    return height, width


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the rotation that the EXIF data ask for."""
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _check_size(path: Path, size: tuple[int, int], record: ImageRecord) -> None:
    if size != (record.width, record.height):
        raise CastError(
            f"{path}: the image is {size[0]} × {size[1]} pixels (width × height, upright) but its record, id "
            f"{record.id}, says {record.width} × {record.height}; correct the record or restore the image"
        )


def _rgb(image: Image.Image, path: Path) -> Pixels:
    """RGB in 0 … 255; 16 bits come as float32, not yet rounded to 8."""
    if image.mode == "F":
        raise CastError(f"{path}: floating-point pixels have no fixed scale; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits; Pillow holds some of them in 32
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise CastError(f"{path}: pixel values exceed 16 bits; save it with 8 or 16 bits")
        return np.repeat((grey / 257).astype(np.float32)[:, :, None], 3, axis=2)  # 65535 / 255
    return np.array(image.convert("RGB"))


def _unreadable(path: Path, error: BaseException) -> CastError:
    return CastError(f"{path}: cannot be read as an image ({_one_line(error)}); replace the file")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

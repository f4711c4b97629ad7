"""Image files: any mode that Pillow reads becomes 8-bit RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cast.errors import CastError

if TYPE_CHECKING:
    from cast.data.coco import ImageRecord

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
HALF = 127.5  # of 8-bit luminance


def read_image(path: Path, invert_bright: bool = False) -> NDArray[np.uint8]:
    """Read one image.

    Grey, palette, CMYK and transparent images become RGB, 16 bits are scaled to 8, EXIF rotation is applied.

    Args:
        path: the image file.
        invert_bright: turn images with a bright background (median luminance above half) into negatives.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        CastError: the file is missing, truncated, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = _eight_bit_rgb(upright, path)
    except FileNotFoundError:
        raise CastError(f"{path}: image file is missing; check file_name and the image folder") from None
    except UNREADABLE as error:
        raise CastError(
            f"{path}: cannot be read as an image ({_one_line(error)}); replace the file"
        ) from None
    if invert_bright and np.median(np.asarray(Image.fromarray(pixels).convert("L"))) > HALF:
        pixels = np.asarray(255 - pixels, dtype=np.uint8)
    return pixels


def load_image(image_root: Path, record: ImageRecord, invert_bright: bool = False) -> NDArray[np.uint8]:
    """Read the image of a record and make sure that it has the size its annotations were made for.

    Returns:
        RGB, uint8 (H, W, 3), with H and W as in the record.

    Raises:
        CastError: unreadable, or of another size than the record says.
    """
    path = image_root / record.file_name
    pixels = read_image(path, invert_bright)
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
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS:
                width, height = height, width
    except UNREADABLE as error:
        raise CastError(
            f"{path}: cannot be read as an image ({_one_line(error)}); replace the file"
        ) from None
    _check_size(path, (width, height), record)


def _check_size(path: Path, size: tuple[int, int], record: ImageRecord) -> None:
    if size != (record.width, record.height):
        raise CastError(
            f"{path}: the image is {size[0]} × {size[1]} pixels (width × height, upright) but its record, id "
            f"{record.id}, says {record.width} × {record.height}; correct the record or restore the image"
        )


def _eight_bit_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise CastError(f"{path}: floating-point pixels have no fixed scale; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits; Pillow holds some of them in 32
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise CastError(f"{path}: pixel values exceed 16 bits; save it with 8 or 16 bits")
        eight_bit = np.round(grey / 257).astype(np.uint8)  # 65535 / 255
        return np.repeat(eight_bit[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

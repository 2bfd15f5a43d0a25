"""Pictures as bytes: what they are, upright, small enough for a model, and a hash by which close ones are found.

Blocking code on Pillow, which comes with `pip install "gristmill[images]"`; call it in a thread.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MEDIA_TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif",
    "BMP": "image/bmp",
}  # fmt: skip
SUPPORTED = "png, jpg, webp, gif and bmp"
_SENT_AS_IT_IS = ("image/png", "image/jpeg", "image/webp")  # what every provider takes
_ORIENTATION = 0x0112  # of EXIF
_NOISE = 2  # of 255


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright picture. `data` are the bytes that were given, unless it had to be turned."""

    data: bytes
    media_type: str
    width: int  # pixels
    height: int
    perceptual_hash: str


def read_picture(data: bytes, name: str, max_pixels: int) -> Picture:
    """A picture out of the bytes of a file; of an animation the first one.

    Raises `InputError`: P201 empty, P203 damaged, P204 not one of the formats, P240 more than `max_pixels` (nothing of
    it is unpacked), P241 Pillow is missing.
    """
    if not data:
        raise InputError(f"{name} is empty (0 bytes)", code="P201")
    with _open(data, name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"{name} has {width} x {height} pixels, more than {max_pixels:,}", code="P240",
                hint="make it smaller, or raise the option max_pixels of the step read_images",
            )  # fmt: skip
        media_type = MEDIA_TYPES[image.format or ""]
        try:
            image.load()
            turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            upright = _upright(image) if turned else image
            if turned:
                data = _encode(upright, media_type)
            return Picture(data, media_type, *upright.size, difference_hash(upright))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's words for what is cut off or broken
            raise InputError(f"{name} is damaged and cannot be shown", code="P203") from error


def fit(data: bytes, media_type: str, longest: int) -> tuple[bytes, str]:
    """The picture as a model is sent it, and its media type: no side longer than `longest` pixels, in a format that all
    providers take. Bytes that are so already are sent unchanged."""
    with _open(data, "the picture") as image:
        moves = getattr(image, "is_animated", False)
        if max(image.size) <= longest and media_type in _SENT_AS_IT_IS and not moves:
            return data, media_type
        small = _plain(image)
        small.thumbnail((longest, longest))
        kept = (
            "image/jpeg" if media_type in ("image/jpeg", "image/webp") and small.mode in ("RGB", "L") else "image/png"
        )
        return _encode(small, kept), kept


def difference_hash(image: Image) -> str:
    """64 bits in 16 hex digits: for each of 8 x 8 places whether it gets darker to the right, by more than what
    compression leaves on an even ground. Close pictures differ in few bits (up to about 6), whatever their size and
    format."""
    from PIL import Image as pillow

    plain = _plain(image)
    if plain.mode == "RGBA":
        white = pillow.new("RGBA", plain.size, "white")
        plain = pillow.alpha_composite(white, plain)
    small = plain.convert("L").resize((9, 8), pillow.Resampling.BOX).tobytes()
    places = [row * 9 + at for row in range(8) for at in range(8)]
    bits = "".join("1" if small[at] - small[at + 1] > _NOISE else "0" for at in places)
    return f"{int(bits, 2):016x}"


def _open(data: bytes, name: str) -> Image:
    try:
        from PIL import Image as pillow
        from PIL import UnidentifiedImageError
    except ImportError:
        raise InputError(
            "pictures need the package Pillow",
            code="P241",
            hint='pip install "gristmill[images]", then gristmill retry',
        ) from None
    try:
        return pillow.open(io.BytesIO(data), formats=[entry for entry in MEDIA_TYPES if entry != "MPO"])
    except pillow.DecompressionBombError as error:
        raise InputError(f"{name} has far too many pixels", code="P240") from error
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is no picture of a format that is read here", code="P204", hint=f"supported are {SUPPORTED}"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{name} is damaged and cannot be shown", code="P203") from error


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _plain(image: Image) -> Image:
    """A copy in one of the modes L, RGB and RGBA: no palette, no ink colours, no 16 bits."""
    if image.mode.startswith("I"):
        return image.point(lambda value: value / 256).convert("L")
    if image.mode in ("L", "RGB", "RGBA"):
        return image.copy()
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _encode(image: Image, media_type: str) -> bytes:
    file = io.BytesIO()
    profile = image.info.get("icc_profile")
    more: dict[str, Any] = {"icc_profile": profile} if profile else {}
    if media_type == "image/jpeg":
        more["quality"] = 92
    image.save(file, media_type.removeprefix("image/").upper(), **more)
    return file.getvalue()

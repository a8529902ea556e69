"""A visitor's picture file to the square of pixels that the image encoder sees.

    decode(data)  ->  DecodedImage        or raises ImageProblem, and nothing else

**The crop rule.** The picture is turned upright (EXIF), the largest centred square is cut out
(where the left-over is odd, the extra pixel stays right or below), and reduced to
``side x side``. ``crop`` names that square in pixels of the upright original.

**What works**: PNG, JPEG, WEBP, GIF, BMP, TIFF with at least 8 x 8 and at most 64 megapixels
(WEBP 32, whose decoder needs much memory).
CMYK is turned into RGB (JPEG by Adobe's inverted convention, which is the one in use); 16-bit
pictures are scaled by 65535, never clipped; float and 32-bit greys are stretched from their
smallest to their largest value; transparency is laid on white; of an animation or a document of
several pages the first is used; a JPEG is decoded at a fraction of its size, so that a phone's 50
megapixels cost little. Colour profiles are ignored. ``notes`` lists what of this happened.

**What does not** raises :class:`ImageProblem`, a ``ValueError`` with a stable ``code`` (the keys
of ``PROBLEMS``) and the ``numbers`` of the case, from which any language can say it; ``str()`` is
the English sentence. The format is told from the contents, never from a file name. The size is
read from the header, before anything is decoded: a picture of 1 pixel is refused ("too-small": an
even square of one colour has nothing to route), and so is one of 30,000 x 30,000. Only pixels
leave this module: text, scripts or archives attached to a picture are dropped with the file.

**Threads.** No global state of Pillow or of ``warnings`` is read or changed: Pillow's own bomb
check is a process-wide setting, so the limits here are checked by hand, and the plugins are called
directly. Any number of threads may decode at once. Measured peak of memory at 50 megapixels: 4 MB
for a baseline JPEG, 150 MB for a progressive one, 200 to 500 MB for a PNG.

Pillow and numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

MAX_BYTES = 20_000_000  #: bytes of a file
MAX_PIXELS = 64_000_000  #: width x height
MAX_WEBP_PIXELS = 32_000_000  #: its decoder keeps several copies, 16 bytes a pixel
MIN_SIDE = 8  #: pixels: one patch of the image encoder

READERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
FORMATS = tuple(READERS)

#: code -> English sentence, filled with the problem's ``numbers``.
PROBLEMS = {
    "empty": "The file is empty (0 bytes). Choose it again, or choose another picture.",
    "too-large": "The file has {bytes:,} bytes; at most {limit:,} are accepted. "
    "Save a smaller copy and try again.",
    "not-an-image": "This file of {bytes:,} bytes is not a picture, whatever its name says. "
    "Choose a PNG, JPEG, WEBP, GIF, BMP or TIFF file.",
    "unsupported-format": "This is a {format} file, which cannot be read here. "
    "Save or export it as JPEG or PNG and try again.",
    "too-many-pixels": "The picture has {width:,} x {height:,} pixels ({megapixels:,} megapixels); "
    "at most {limit:,} megapixels are accepted. "
    "Save a smaller copy and try again.",
    "too-small": "The picture has {width:,} x {height:,} pixels; both sides must have at least "
    "{limit}. Choose a larger picture.",
    "truncated": "This {format} file of {bytes:,} bytes ends before its picture does. "
    "Copy or download it again.",
    "damaged": "This {format} file of {bytes:,} bytes is damaged and cannot be decoded. "
    "Open it in another program and save it as JPEG or PNG.",
    "no-memory": "There was not enough memory to decode {width:,} x {height:,} pixels. "
    "Save a smaller copy and try again.",
}

#: code -> what was done to the picture, in English.
NOTES = {
    "rotated": "turned upright, as the camera noted",
    "cropped": "cut to its centred square",
    "enlarged": "smaller than what the model sees, so it was enlarged",
    "first-frame": "animated or of several pages: the first one is used",
    "transparency": "transparent parts are laid on white",
    "cmyk": "printing colours (CMYK) turned into RGB",
    "16-bit": "16-bit greys scaled to 8 bits",
    "stretched": "its smallest to largest value stretched over black to white",
}


class ImageProblem(ValueError):
    """Why a file cannot be used: ``code`` (a key of PROBLEMS), ``numbers``; str() is English."""

    def __init__(self, code: str, **numbers: int | float | str):
        self.code, self.numbers = code, numbers
        super().__init__(PROBLEMS[code].format(**numbers))

    def __reduce__(self):
        return _problem, (self.code, self.numbers)


def _problem(code: str, numbers: dict) -> ImageProblem:
    return ImageProblem(code, **numbers)


@dataclass(frozen=True)
class DecodedImage:
    """What the model sees, and where it lies in the original.

    pixels  uint8 [side, side, 3] RGB, read-only
    crop    (left, top, right, bottom) of the square in pixels of the upright original
    size    (width, height) of the upright original, pixels
    format  one of FORMATS
    notes   codes of NOTES, in the order they happened
    """

    pixels: np.ndarray
    crop: tuple[int, int, int, int]
    size: tuple[int, int]
    format: str
    notes: tuple[str, ...] = ()


def decode(data: bytes, side: int = 128, max_bytes: int = MAX_BYTES) -> DecodedImage:
    """The centred square of a picture file, ``side`` x ``side`` pixels. Raises ImageProblem."""
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, not {side}")
    data = bytes(data)
    if not data:
        raise ImageProblem("empty")
    if len(data) > max_bytes:
        raise ImageProblem("too-large", bytes=len(data), limit=max_bytes)
    form = _sniff(data)
    if form is None:
        raise ImageProblem("not-an-image", bytes=len(data))
    if form not in READERS:
        raise ImageProblem("unsupported-format", format=form)
    size = [0, 0]
    try:
        return _decode(data, form, side, size)
    except ImageProblem as problem:
        found = problem
    except MemoryError:
        found = ImageProblem("no-memory", width=size[0], height=size[1])
    except Exception as error:  # plugins raise nearly everything on hostile bytes
        cut = _cut_short(data, form, error)
        found = ImageProblem("truncated" if cut else "damaged", format=form, bytes=len(data))
    # raised out here, so that whoever keeps it does not keep the decoder's frames and pixels
    raise found.with_traceback(None)


def _decode(data: bytes, form: str, side: int, size: list[int]) -> DecodedImage:
    if form == "WEBP":  # its decoder allocates the canvas as soon as it is opened
        _check_size(*_webp_size(data), MAX_WEBP_PIXELS)
    image = READERS[form](BytesIO(data))
    size[:] = image.size
    _check_size(*image.size)
    if form == "BMP" and image.info.get("compression") in (1, 2):
        # Pillow unpacks these in Python, a second for each megabyte of the file
        raise ImageProblem("unsupported-format", format="run-length compressed BMP")
    if form == "TIFF":  # tiles may be larger than the picture they cover
        _check_size(*(max(image.tag_v2.get(tag, 0), MIN_SIDE) for tag in (322, 323)))
    notes = ["first-frame"] if _several(image) else []
    full = image.size
    if form == "JPEG":
        # decode at 1/2, 1/4 or 1/8, still at least twice what is wanted
        image.draft(image.mode, (2 * side, 2 * side))
    image.load()
    turn = _orientation(image, form)
    upright = full[::-1] if turn >= 5 else full
    if turn != 1:
        notes.append("rotated")
    square = min(upright)
    left, top = (upright[0] - square) // 2, (upright[1] - square) // 2
    crop = (left, top, left + square, top + square)
    if upright[0] != upright[1]:
        notes.append("cropped")
    small = _reduce(image, _stored_box(crop, full, turn), full, side, notes)
    if turn in TRANSPOSE:
        small = small.transpose(TRANSPOSE[turn])
    if square < side:
        notes.append("enlarged")
    pixels = np.array(small, np.uint8)
    pixels.flags.writeable = False
    return DecodedImage(pixels=pixels, crop=crop, size=upright, format=form, notes=tuple(notes))


def _check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageProblem("too-small", width=width, height=height, limit=MIN_SIDE)
    if width * height > most:
        raise ImageProblem(
            "too-many-pixels",
            width=width,
            height=height,
            megapixels=round(width * height / 1e6, 1),
            limit=most // 10**6,
        )


# ---------------------------------------------------------------------------- pixels


def _reduce(
    image: Image.Image, box: tuple[int, ...], full: tuple[int, int], side: int, notes: list[str]
) -> Image.Image:
    """The box (pixels of the stored, undrafted picture) as RGB, side x side."""
    across, down = image.width / full[0], image.height / full[1]  # below 1 after a draft
    box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    if image.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        # what follows copies the picture: copy the square only (whole pixels: there is no draft)
        image = image.crop(tuple(round(v) for v in box))
        box = (0, 0, *image.size)
    image, low, high = _plain_mode(image, notes)
    image = image.resize((side, side), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if image.mode == "F":
        scaled = (np.asarray(image) - low) * (255 / ((high - low) or 1))
        image = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    if image.mode == "CMYK":
        notes.append("cmyk")
    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            notes.append("transparency")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _plain_mode(image: Image.Image, notes: list[str]) -> tuple[Image.Image, float, float]:
    """To a mode whose values may be averaged; for F also the values of black and white."""
    mode = image.mode
    if mode.startswith("I;16"):
        notes.append("16-bit")
        return Image.fromarray(np.asarray(image).astype(np.float32)), 0.0, 65535.0
    if mode in ("I", "F"):
        notes.append("stretched")
        values = np.asarray(image).astype(np.float32)
        values[~np.isfinite(values)] = 0
        return Image.fromarray(values), float(values.min()), float(values.max())
    if mode == "LAB":
        raise ImageProblem("unsupported-format", format="Lab colour TIFF")
    if mode == "La":
        image = image.convert("LA")
    elif "transparency" in image.info or mode in ("PA", "RGBa"):
        image = image.convert("RGBA")
    elif mode in ("1", "P", "RGBX", "HSV"):
        image = image.convert("L" if mode == "1" else "RGB")
    return image, 0.0, 255.0


# ---------------------------------------------------------------------------- upright

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image, form: str) -> int:
    """EXIF orientation 1..8 of a loaded picture; 1 where there is none to apply."""
    if form == "TIFF":  # Pillow turns these upright while loading
        return 1
    try:
        value = int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return 1
    return value if 1 <= value <= 8 else 1


def _stored_box(
    crop: tuple[int, int, int, int], full: tuple[int, int], turn: int
) -> tuple[int, int, int, int]:
    """A box of the upright picture as a box of the picture as it is stored.

    Cutting and reducing before turning is cheaper than turning megapixels.
    """
    left, top, right, bottom = crop
    if turn >= 5:  # rows are stored as columns
        left, top, right, bottom = top, left, bottom, right
    if turn in (2, 3, 7, 8):
        left, right = full[0] - right, full[0] - left
    if turn in (3, 4, 6, 7):
        top, bottom = full[1] - bottom, full[1] - top
    return left, top, right, bottom


def _several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame may be broken
        return True


# ---------------------------------------------------------------------------- formats

#: (offset, bytes there, name); the names that are not in FORMATS are refused by name.
SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"DDS ", "DDS"),
)
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}


def _sniff(data: bytes) -> str | None:
    """The format by its first bytes, or None."""
    for offset, magic, name in SIGNATURES:
        if data.startswith(magic, offset):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    # two letters are not enough: a text may begin with BM
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _iso_format(data)
    head = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "SVG"
    return None


def _iso_format(data: bytes) -> str:
    """HEIC, AVIF and films share one container; the brands in its first box tell them apart."""
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    brands = [data[8:12]] + [data[i : i + 4] for i in range(16, end - 3, 4)]
    for brand in brands:
        if brand in HEIC_BRANDS:
            return "HEIC"
        if brand in (b"avif", b"avis"):
            return "AVIF"
    return "HEIF" if brands[0] in (b"mif1", b"msf1") else "video"


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the first chunk; raises ValueError where there is none."""
    kind = data[12:16]
    if len(data) < 30 or kind not in (b"VP8X", b"VP8L", b"VP8 "):
        raise ValueError("no WEBP chunk")
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return (
        int.from_bytes(data[26:28], "little") & 0x3FFF,
        int.from_bytes(data[28:30], "little") & 0x3FFF,
    )


def _cut_short(data: bytes, form: str, error: Exception) -> bool:
    """Whether a file that could not be decoded lacks its end, rather than being wrong inside."""
    if form == "PNG":
        return b"IEND" not in data[-64:]
    if form == "JPEG":
        return data.rstrip(b"\0")[-2:] != b"\xff\xd9"
    if form == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if form == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    if form == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    return "truncated" in str(error).lower() or len(data) < 64


__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "NOTES",
    "PROBLEMS",
    "DecodedImage",
    "ImageProblem",
    "decode",
]

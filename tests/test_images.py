"""Every kind of picture a visitor may drop, built here from bytes: it works, or one sentence."""

from __future__ import annotations

import io
import pickle
import re
import struct
import threading
import time
import traceback
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mhmoe.models import images
from mhmoe.models.images import FORMATS, NOTES, PROBLEMS, ImageProblem, decode


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Smooth, different in every corner, so that a wrong turn, crop or channel shows."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack((x, y, (255 - x + y) / 2), 2).astype(np.uint8))


def refused(data: bytes, **options) -> ImageProblem:
    with pytest.raises(ImageProblem) as caught:
        decode(data, **options)
    return caught.value


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------------------- what works


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_picture(form):
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    decoded = decode(saved(picture(64, 64), form, **options), side=32)
    expected = np.asarray(picture(64, 64).resize((32, 32), Image.Resampling.LANCZOS), int)
    assert decoded.format == form
    assert decoded.pixels.shape == (32, 32, 3)
    assert decoded.pixels.dtype == np.uint8
    worst = np.abs(decoded.pixels.astype(int) - expected).max()
    assert worst <= (60 if form == "GIF" else 12 if form == "JPEG" else 1), worst
    assert decoded.crop == (0, 0, 64, 64)
    assert decoded.size == (64, 64)
    assert "cropped" not in decoded.notes


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((60, 40), (10, 0, 50, 40)),
        ((40, 60), (0, 10, 40, 50)),
        ((61, 40), (10, 0, 50, 40)),
    ],
)
def test_the_centred_square_is_used(size, crop):
    decoded = decode(saved(picture(*size)), side=20)
    assert decoded.crop == crop
    assert decoded.size == size
    assert decoded.notes == ("cropped",)
    expected = picture(*size).crop(crop).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_undone(turn, form):
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    data = saved(picture(61, 40), form, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    decoded = decode(data, side=40)
    assert decoded.size == upright.size == ((40, 61) if turn >= 5 else (61, 40))
    # the same square to the pixel, although 61 - 40 is odd
    expected = np.asarray(upright.crop(decoded.crop), int)
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 2
    if form != "TIFF":
        assert ("rotated" in decoded.notes) == (turn != 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_spoil_the_picture():
    data = saved(picture(64, 64), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).notes == ("enlarged",)


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_jpeg_keeps_its_colours(marker):
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    data = saved(red, "JPEG", quality=95)
    assert (b"Adobe" in data) is True, "Pillow writes the Adobe marker, inverted"
    if not marker:
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 16 :]
    decoded = decode(data, side=16)
    assert "cmyk" in decoded.notes
    assert decoded.pixels[8, 8, 0] > 240
    assert decoded.pixels[8, 8, 1:].max() < 15


def test_cmyk_tiff():
    decoded = decode(saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "TIFF"), side=16)
    assert decoded.pixels[0, 0].tolist() == [0, 255, 255]
    assert decoded.notes == ("cmyk",)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1)).astype(np.uint16)
    decoded = decode(saved(Image.fromarray(ramp)), side=64)
    assert decoded.notes == ("16-bit",)
    assert np.abs(decoded.pixels[0, :, 0].astype(float) - ramp[0] / 257).max() <= 1
    tiff = decode(saved(Image.fromarray(ramp), "TIFF"), side=64)
    assert np.array_equal(tiff.pixels, decoded.pixels)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_colour_and_alpha_png(colour, channels):
    pixel = {3: (0x8000, 0xFFFF, 0x0100), 4: (0x8000, 0xFFFF, 0x0100, 0xFFFF), 2: (0x8000, 0xFFFF)}[
        channels
    ]
    rows = (b"\0" + struct.pack(f">{channels}H", *pixel) * 16) * 16
    middle = decode(png(16, 16, 16, colour, rows), side=8).pixels[4, 4]
    expected = (128, 255, 1) if channels > 2 else (128, 128, 128)
    assert np.abs(middle.astype(int) - expected).max() <= 1


def test_float_and_32_bit_greys_are_stretched():
    values = np.tile(np.linspace(-3, 5, 32, dtype=np.float32), (32, 1))
    values[0, 0] = np.nan
    decoded = decode(saved(Image.fromarray(values), "TIFF"), side=32)
    assert decoded.notes == ("stretched",)
    assert decoded.pixels[9, 0, 0] == 0
    assert decoded.pixels[9, -1, 0] == 255
    whole = Image.fromarray((values[1:17, :16] * 1e6).astype(np.int32))
    assert decode(saved(whole, "TIFF"), side=16).pixels[9, -1, 0] == 255
    flat = decode(saved(Image.fromarray(np.full((16, 16), 7, np.float32)), "TIFF"))
    assert flat.pixels.max() == 0


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 16, 32))
    decoded = decode(saved(clear), side=32)
    assert decoded.notes == ("transparency",)
    assert decoded.pixels[16, 4].tolist() == [0, 0, 255]
    assert decoded.pixels[16, 28].tolist() == [255, 255, 255]
    # the hidden red must not bleed over the edge when the picture is reduced
    edge = decode(saved(clear), side=8).pixels.astype(int)
    assert (edge[..., 0] <= edge[..., 2]).all()
    assert decode(saved(Image.new("LA", (16, 16), (0, 0)))).pixels.min() == 255
    assert "transparency" not in decode(saved(Image.new("RGBA", (16, 16), (1, 2, 3, 255)))).notes


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency(transparency, form):
    if form == "GIF" and isinstance(transparency, bytes):
        transparency = 1
    image = Image.new("P", (40, 20), 0)
    image.putpalette([0, 128, 0, 255, 0, 0])
    image.paste(1, (20, 0, 40, 20))
    decoded = decode(saved(image, form, transparency=transparency), side=20)
    assert decoded.notes == ("cropped", "transparency")
    assert decoded.pixels[10, 2].tolist() == [0, 128, 0]
    assert decoded.pixels[10, 17].tolist() == [255, 255, 255]


def test_colour_key_one_bit_and_grey():
    key = decode(saved(Image.new("RGB", (16, 16), (9, 9, 9)), transparency=(9, 9, 9)), side=16)
    assert key.pixels.min() == 255
    assert decode(saved(Image.new("1", (16, 16), 1)), side=16).pixels.min() == 255
    assert decode(saved(Image.new("L", (16, 16), 77)), side=16).pixels[3, 3].tolist() == [77] * 3


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_used(form):
    frames = [Image.new("RGB", (24, 24), c) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data, side=8)
    assert decoded.notes == ("first-frame",)
    assert decoded.pixels[4, 4].tolist() == [250, 0, 0]
    assert decode(saved(frames[0], form, **options), side=8).notes == ()


def test_a_small_picture_is_enlarged_and_says_so():
    decoded = decode(saved(picture(8, 8)))
    assert decoded.pixels.shape == (128, 128, 3)
    assert decoded.notes == ("enlarged",)


def test_a_fifty_megapixel_phone_picture_is_quick(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    large = picture(60, 45).resize((8160, 6120), Image.Resampling.NEAREST)
    data = saved(large, "JPEG", quality=75, exif=exif)
    sizes = []
    reduce_ = images._reduce
    monkeypatch.setattr(
        images, "_reduce", lambda image, *rest: sizes.append(image.size) or reduce_(image, *rest)
    )
    start = time.thread_time()
    decoded = decode(data)
    spent = time.thread_time() - start
    assert sizes == [(1020, 765)], "decoded whole, not at an eighth"
    assert decoded.size == (6120, 8160)
    assert decoded.crop == (0, 1020, 6120, 7140)
    assert decoded.notes == ("rotated", "cropped")
    upright = picture(60, 45).transpose(Image.Transpose.ROTATE_270)
    expected = upright.resize((128, 128), Image.Resampling.NEAREST, (0, 7.5, 45, 52.5))
    assert np.abs(decoded.pixels.astype(int) - np.asarray(expected, int)).mean() < 4
    assert spent < 2, f"{spent:.2f} s"


def test_the_pixels_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        decode(saved(picture())).pixels[0, 0, 0] = 1


# ---------------------------------------------------------------------------- what does not


def test_empty():
    problem = refused(b"")
    assert problem.code == "empty"
    assert "0 bytes" in str(problem)


def test_more_bytes_than_allowed():
    problem = refused(saved(picture()), max_bytes=100)
    assert problem.code == "too-large"
    assert problem.numbers["limit"] == 100
    assert problem.numbers["bytes"] == len(saved(picture()))
    assert f"{problem.numbers['bytes']:,} bytes" in str(problem)


@pytest.mark.parametrize(
    "data",
    [
        b"This is a letter, renamed to .jpg",
        b"BMW is a maker of cars and not a bitmap at all.",
        b"\0",
        b"\x89PNG",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"PK\x03\x04" + b"\0" * 100,
        "图片.txt 改名为 .png".encode(),
        b"GIF",
        b"<html><script>alert(1)</script>",
    ],
)
def test_not_an_image(data):
    problem = refused(data)
    assert problem.code == "not-an-image"
    assert problem.numbers == {"bytes": len(data)}
    assert "not a picture" in str(problem)


def box(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + b"\0\0\0\x08mdat" + b"\0" * 200


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (box(b"heic", b"mif1", b"heic"), "HEIC"),
        (box(b"mif1", b"heic", b"hevc"), "HEIC"),
        (box(b"heix"), "HEIC"),
        (box(b"mif1"), "HEIF"),
        (box(b"avif", b"mif1"), "AVIF"),
        (box(b"mif1", b"avif"), "AVIF"),
        (box(b"isom", b"mp42"), "video"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "Photoshop (PSD)"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf <SVG width='9'>", "SVG"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\1\0\1\0", "ICO"),
    ],
)
def test_what_cannot_be_read_is_named(data, name):
    problem = refused(data)
    assert problem.code == "unsupported-format"
    assert problem.numbers == {"format": name}
    assert f"a {name} file" in str(problem)
    assert "JPEG or PNG" in str(problem)


def test_a_real_avif_is_refused_by_name():
    assert refused(saved(picture(), "AVIF")).numbers == {"format": "AVIF"}


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
@pytest.mark.parametrize("form", FORMATS)
def test_too_small(size, form):
    problem = refused(saved(Image.new("RGB", size), form))
    assert problem.code == "too-small"
    assert problem.numbers == {"width": size[0], "height": size[1], "limit": 8}
    assert f"{size[0]} x {size[1]} pixels" in str(problem)


def huge(form: str, width: int, height: int) -> bytes:
    """A small valid picture whose header is rewritten to claim width x height."""
    data = bytearray(saved(Image.new("RGB", (16, 16)), form))
    if form == "PNG":
        return png(width, height, 8, 2, b"\0" * 1000)
    if form == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif form == "WEBP":
        data[12:30] = (
            b"VP8X\x0a\0\0\0\0\0\0\0"
            + struct.pack("<I", width - 1)[:3]
            + struct.pack("<I", height - 1)[:3]
        )
    elif form == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = next(
                i
                for i in range(8, len(data) - 12)
                if data[i : i + 2] == struct.pack("<H", tag) and data[i + 4 : i + 8] == b"\1\0\0\0"
            )
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


@pytest.mark.parametrize("form", FORMATS)
def test_thirty_thousand_squared_is_refused_before_decoding(form, recwarn):
    start = time.thread_time()
    problem = refused(huge(form, 30_000, 30_000))
    assert time.thread_time() - start < 0.2
    assert problem.code == "too-many-pixels", str(problem)
    limit = 32 if form == "WEBP" else 64
    assert problem.numbers == {
        "width": 30_000,
        "height": 30_000,
        "megapixels": 900.0,
        "limit": limit,
    }
    assert "30,000 x 30,000" in str(problem)
    assert f"{limit} megapixels" in str(problem)
    assert not recwarn.list, "Pillow's own bomb warning was set off"


def test_a_bomb_of_a_few_kilobytes_is_refused():
    data = png(9_000, 9_000, 1, 0, bytes(1126 * 9_000))
    assert len(data) < 30_000
    assert refused(data).code == "too-many-pixels"


def test_the_size_of_a_webp_is_read_before_its_decoder_allocates():
    lossy = saved(picture(64, 64), "WEBP", quality=50)
    lossless = saved(picture(64, 64), "WEBP", lossless=True)
    assert images._webp_size(lossy) == images._webp_size(lossless) == (64, 64)
    animated = saved(
        picture(70, 64), "WEBP", save_all=True, append_images=[Image.new("RGB", (70, 64))]
    )
    assert images._webp_size(animated) == (70, 64)


def test_a_compressed_text_bomb_inside_a_png_is_refused():
    body = b"k\0\0" + zlib.compress(b"\0" * 2_000_000)
    chunk = (
        struct.pack(">I", len(body))
        + b"zTXt"
        + body
        + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    )
    rows = (b"\0" + b"\7" * 48) * 16
    assert refused(png(16, 16, 8, 2, rows, extra=chunk)).code == "damaged"


def test_a_tiff_with_giant_tiles_is_refused():
    # the tile's width and length as extra tags; the decoder would allocate a whole tile
    entries = [
        (256, 4, 1, 64),
        (257, 4, 1, 64),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 4, 1, 60_000),
        (323, 4, 1, 60_000),
        (324, 4, 1, 8),
        (325, 4, 1, 8),
    ]
    data = (
        b"II*\0"
        + struct.pack("<I", 16)
        + b"\x80\0\0\0\0\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + b"\0\0\0\0"
    )
    problem = refused(data)
    assert problem.code == "too-many-pixels"
    assert problem.numbers["width"] == 60_000


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_truncated(form, share):
    """Cut anywhere: refused, and for every format but TIFF known to be cut short."""
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noisy, form)
    cut = data[: max(12 if form == "WEBP" else 18, int(len(data) * share))]
    problem = refused(cut)
    assert problem.code in ("truncated", "damaged"), str(problem)
    assert problem.code == "truncated" or form == "TIFF", str(problem)
    assert problem.numbers["format"] == form
    assert str(len(cut)) in str(problem).replace(",", "")


def test_damaged_inside():
    data = bytearray(saved(picture(64, 64)))
    at = data.index(b"IDAT") + 20
    data[at : at + 30] = bytes(30)
    problem = refused(bytes(data))
    assert problem.code == "damaged"
    assert "PNG" in str(problem)


def test_a_run_length_compressed_bmp_is_named():
    data = bytearray(saved(Image.new("L", (16, 16)), "BMP"))
    data[30:34] = struct.pack("<I", 1)
    assert refused(bytes(data)).numbers == {"format": "run-length compressed BMP"}


def test_lab_colour_is_named():
    data = saved(Image.new("LAB", (16, 16)), "TIFF")
    assert refused(data).numbers == {"format": "Lab colour TIFF"}


def test_a_polyglot_gives_pixels_only():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.html", "<script>alert(1)</script>")
    plain = decode(saved(picture()))
    both = decode(saved(picture()) + archive.getvalue())
    assert np.array_equal(both.pixels, plain.pixels)
    assert both.notes == plain.notes
    assert refused(b"GIF89a/*<script>*/=1;alert(1)//" + b" " * 50).code in ("damaged", "truncated")


@pytest.mark.filterwarnings("ignore")
def test_hostile_bytes_never_escape():
    """Flipped bytes and garbage after each signature: a picture or an ImageProblem."""
    rng = np.random.default_rng(1)
    outcomes = set()
    for form in FORMATS:
        good = np.frombuffer(saved(picture(24, 24), form), np.uint8)
        for trial in range(60):
            data = good.copy()
            places = rng.integers(0, len(data) if trial % 2 else min(80, len(data)), 6)
            data[places] = rng.integers(0, 256, 6)
            try:
                outcomes.add(decode(data.tobytes(), side=16).format)
            except ImageProblem as problem:
                outcomes.add(problem.code)
        for magic in (m for _, m, name in images.SIGNATURES if name == form):
            refused(magic + rng.bytes(300))
    assert outcomes <= set(PROBLEMS) | set(FORMATS)
    assert "damaged" in outcomes
    assert len(outcomes & set(FORMATS)) >= 3


def test_no_memory_has_a_sentence(monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_reduce", exhausted)
    problem = refused(saved(picture(60, 40)))
    assert problem.code == "no-memory"
    assert problem.numbers == {"width": 60, "height": 40}


# ---------------------------------------------------------------------------- the sentences


def test_a_problem_is_self_contained():
    problem = refused(saved(picture())[:100])
    assert problem.__cause__ is None
    assert problem.__context__ is None, "keeps the decoder's frames alive"
    for data in (saved(picture())[:100], huge("PNG", 30_000, 30_000)):
        frames = traceback.extract_tb(refused(data).__traceback__)
        assert not {"_decode", "_check_size"} & {frame.name for frame in frames}
    again = pickle.loads(pickle.dumps(problem))
    assert (again.code, again.numbers, str(again)) == (problem.code, problem.numbers, str(problem))


def test_every_problem_and_note_is_a_sentence_that_says_what_to_do():
    for code, sentence in PROBLEMS.items():
        names = set(re.findall(r"{(\w+)[:}]", sentence))
        text = str(ImageProblem(code, **dict.fromkeys(names, 7)))
        assert re.search(r"(Choose|Save|Copy|Open) .*\.$", text), code
    assert all(NOTES.values())


def test_global_state_is_left_alone():
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    decode(saved(picture(), "JPEG"))
    refused(huge("PNG", 30_000, 30_000))
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


def test_threads_get_the_same_pixels():
    files = [saved(picture(300 + 20 * i, 240), form) for i, form in enumerate(FORMATS)]
    alone = [decode(data).pixels for data in files]
    wrong = []

    def work():
        for data, expected in zip(files, alone, strict=True):
            if not np.array_equal(decode(data).pixels, expected):
                wrong.append(len(data))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_side_must_be_positive():
    with pytest.raises(ValueError, match="side"):
        decode(saved(picture()), side=0)

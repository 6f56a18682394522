import io
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from cxr_ray.data import image_pack
from cxr_ray.data.image_pack import (
    FORMATS,
    allocate_images,
    collect_faults,
    decode_chunk,
    decode_image,
    open_images,
)

SIZE = 32


def encoded(image, format="PNG", **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def ramp(width=96, height=96):
    """Bright at the right: what is decoded shows which way up and how bright it came."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


class Folder:
    """A source of images by name that counts how often each is read."""

    def __init__(self, **images):
        self.images = images
        self.reads = []

    def read_image(self, reference):
        self.reads.append(reference)
        if reference not in self.images:
            raise FileNotFoundError(reference)
        return self.images[reference]


def faults_of(tmp_path, **images):
    """The reason of each image that a pack cannot hold."""
    allocate_images(tmp_path, len(images), SIZE)
    decode_chunk(tmp_path, Folder(**images), 0, list(images))
    faults = collect_faults(tmp_path)
    return {name: faults.get(row) for row, name in enumerate(images)}


IN_PNG = ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")


@pytest.mark.parametrize(
    ("format", "mode"),
    [("PNG", mode) for mode in IN_PNG] + [("TIFF", mode) for mode in (*IN_PNG, "I", "F", "CMYK")],
)
def test_every_mode_decodes_to_the_same_gray_ramp(format, mode):
    gray = Image.fromarray(ramp())
    if mode in ("I;16", "I"):
        image = Image.fromarray(ramp().astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "P":
        image = gray.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    else:
        image = gray.convert(mode)
    pixels = decode_image(encoded(image, format), SIZE)
    assert pixels.shape == (SIZE, SIZE)
    assert pixels.dtype == np.uint8
    tolerance = 40 if mode == "1" else 5
    wanted = decode_image(encoded(gray), SIZE)
    assert np.abs(pixels.mean(0) - wanted.mean(0)).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_any_colours_decodes_to_the_same_gray_ramp(mode):
    content = encoded(Image.fromarray(ramp()).convert(mode), "JPEG", quality=95)
    wanted = decode_image(encoded(Image.fromarray(ramp())), SIZE)
    assert np.abs(decode_image(content, SIZE).mean(0) - wanted.mean(0)).max() <= 6


def test_a_large_jpeg_is_scaled_down_by_its_decoder_to_nearly_the_same_pixels():
    content = encoded(Image.fromarray(ramp(1024, 800)), "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as whole:
        wanted = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(decode_image(content, SIZE).astype(int) - wanted).max() <= 4


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_black_and_half_transparent_ones_half_as_bright(mode):
    white = Image.new("L", (64, 64), 255).convert(mode)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:, :32], alpha[32:, :32] = 0, 128
    white.putalpha(Image.fromarray(alpha))
    pixels = decode_image(encoded(white), SIZE)
    assert pixels[4, 4] == 0
    assert pixels[28, 4] == pytest.approx(128, abs=1)
    assert pixels[4, 28] == pixels[28, 28] == 255


def test_a_palettes_transparent_colour_is_black():
    image = Image.fromarray(
        np.repeat([[0, 1]], 64, axis=0).repeat(32, axis=1).astype(np.uint8), "P"
    )
    image.putpalette([255, 255, 255, 200, 200, 200])
    pixels = decode_image(encoded(image, transparency=0), SIZE)
    assert pixels[0, 0] == 0
    assert pixels[0, -1] == 200


def test_sixteen_bits_keep_their_upper_eight():
    pixels = decode_image(encoded(Image.fromarray(np.full((40, 40), 0x7FFF, np.uint16))), SIZE)
    assert np.unique(pixels).tolist() == [0x7F]


def test_a_png_named_jpg_decodes_by_its_content(tmp_path):
    content = encoded(Image.fromarray(ramp()))
    assert faults_of(tmp_path, **{"a.jpg": content}) == {"a.jpg": None}


@pytest.mark.parametrize(("name", "format"), [("A.JPG", "JPEG"), ("b.PNG", "PNG"), ("c", "PNG")])
def test_a_name_in_capitals_or_without_an_ending_is_found(tmp_path, name, format):
    content = encoded(Image.fromarray(ramp()), format)
    assert faults_of(tmp_path, **{name: content}) == {name: None}


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_images_of_any_shape_fill_the_square(shape, format):
    content = encoded(Image.fromarray(np.full(shape, 77, np.uint8)), format)
    assert np.unique(decode_image(content, SIZE)).tolist() == [77]


def test_bad_images_become_reasons_that_name_no_file(tmp_path, monkeypatch):
    good = encoded(Image.fromarray(ramp()))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    jpeg = encoded(Image.fromarray(noise), "JPEG")
    bomb = encoded(Image.fromarray(ramp(400, 400)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 200)
    found = faults_of(
        tmp_path,
        good=good,
        truncated=jpeg[: len(jpeg) // 2],
        cut_png=good[: len(good) // 2],
        empty=b"",
        text=b"FINAL REPORT\n no image at all",
        html=b"<html><body>404</body></html>",
        bomb=bomb,
    )
    assert found == {
        "good": None,
        "truncated": "image unreadable (OSError)",
        "cut_png": found["cut_png"],
        "empty": "not an image",
        "text": "not an image",
        "html": "not an image",
        "bomb": "image too large",
    }
    assert found["cut_png"].startswith("image unreadable")


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_the_named_formats_decode(format):
    content = encoded(Image.new("L", (40, 40), 77), format)
    assert np.abs(decode_image(content, SIZE).astype(int) - 77).max() <= 2


@pytest.mark.parametrize("format", ["EPS", "DDS", "ICNS", "SGI"])
def test_other_formats_are_no_images_and_no_program_is_started(format, tmp_path, monkeypatch):
    content = encoded(Image.new("RGB", (32, 32), (77, 77, 77)), format)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == format

    def started(*arguments, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", started)
    assert faults_of(tmp_path, a=content) == {"a": "not an image"}


def test_a_missing_image_is_a_reason_and_its_row_stays_black(tmp_path):
    allocate_images(tmp_path, 3, SIZE)
    white = encoded(Image.new("L", (9, 9), 255))
    decode_chunk(tmp_path, Folder(a=white), 0, ["a", None, "gone"])
    assert collect_faults(tmp_path) == {1: "image missing", 2: "image missing"}
    assert [int(image.max()) for image in open_images(tmp_path)] == [255, 0, 0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_damage_anywhere_in_a_file_never_escapes_as_another_error(format):
    rng = np.random.default_rng(1)
    whole = encoded(Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)), format)
    damaged = [whole[: int(cut)] for cut in rng.integers(0, len(whole), 40)]
    for _ in range(80):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 160), 3):
            content[place] = rng.integers(0, 256)
        damaged.append(bytes(content))
    for content in damaged:
        try:
            assert decode_image(content, SIZE).shape == (SIZE, SIZE)
        except image_pack.UNREADABLE:
            pass


def test_a_chunk_that_is_marked_done_is_not_decoded_again(tmp_path):
    images = {f"i{n}": encoded(Image.new("L", (8, 8), n)) for n in range(6)}
    source, names = Folder(**images), list(images)
    allocate_images(tmp_path, 6, SIZE)
    assert decode_chunk(tmp_path, source, 0, names[:3]) == 3
    allocate_images(tmp_path, 6, SIZE)
    assert [decode_chunk(tmp_path, source, start, names[start:]) for start in (0, 3)] == [6, 3]
    assert source.reads == names
    assert [int(image.mean()) for image in open_images(tmp_path)] == list(range(6))


def test_a_chunk_cut_off_in_the_middle_is_decoded_as_a_whole(tmp_path):
    images = {f"i{n}": encoded(Image.new("L", (8, 8), n)) for n in range(4)}
    source = Folder(**images)

    def killed(reference):
        if reference == "i2":
            raise KeyboardInterrupt
        return Folder.read_image(source, reference)

    allocate_images(tmp_path, 4, SIZE)
    source.read_image = killed
    with pytest.raises(KeyboardInterrupt):
        decode_chunk(tmp_path, source, 0, list(images))
    del source.read_image
    decode_chunk(tmp_path, source, 0, list(images))
    assert source.reads == ["i0", "i1", "i0", "i1", "i2", "i3"]
    assert collect_faults(tmp_path) == {}


def test_a_pack_holds_only_its_array_and_marks(tmp_path):
    allocate_images(tmp_path, 1, SIZE)
    decode_chunk(tmp_path, Folder(), 0, [None])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk-00000000.json", "images.npy"]
    assert json.loads((tmp_path / "chunk-00000000.json").read_text()) == {"0": "image missing"}

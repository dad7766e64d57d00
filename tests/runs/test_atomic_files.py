"""Atomic writes of files and folders."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vae.errors import UserError, one_line
from vae.figures import save
from vae.runs.atomic_files import atomic_directory, atomic_write, temporary_path
from vae.runs.run_lock import lock_run
from vae.tracking.metrics_csv import MetricsCSV
from vae.training.callbacks.checkpoints import AtomicCheckpointIO


def test_an_error_leaves_the_existing_folder_unchanged(tmp_path):
    folder = tmp_path / "latent"
    with atomic_directory(folder) as part:
        (part / "a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_directory(folder) as part:
        (part / "a").write_text("2" + (part / "b").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["latent"]
    assert (folder / "a").read_text() == "1"


def test_a_file_is_replaced_at_once_and_no_temporary_file_is_left(tmp_path, monkeypatch):
    file = tmp_path / "a"
    atomic_write("1", file)

    def fail(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            atomic_write("2", file)
    assert file.read_text() == "1"
    atomic_write(b"3", file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "3"}


@pytest.mark.parametrize("place", ["taken", "nowhere/latent"])
def test_an_unwritable_folder_is_an_error_before_the_block_runs(place, tmp_path):
    (tmp_path / "taken").write_text("content")
    with (
        pytest.raises(UserError, match=f"{place}: .*(this is a file|cannot be written: No such file)"),
        atomic_directory(tmp_path / place),
    ):
        pytest.fail("the block ran")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "content"


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    mine, parent = (temporary_path(tmp_path / "a").name.replace(str(os.getpid()), pid) for pid in ("{}", "1"))
    for name in ("a", "latent"):
        (tmp_path / mine.format(killed.pid).replace("a", name, 1)).mkdir()
    (tmp_path / mine.format(killed.pid).replace("a", "b", 1)).write_text("half")
    kept = [parent, "a.part", "a.x-1.part", f"a.another-host-{killed.pid}.part"]
    for name in kept:
        (tmp_path / name).write_text("of a running process, or of another machine")
    atomic_write("1", tmp_path / "a")
    atomic_write("1", tmp_path / "b")
    with atomic_directory(tmp_path / "latent"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a", "b", "latent"])


def test_what_killed_processes_left_in_a_run_is_removed_under_its_lock(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    host, running = socket.gethostname(), os.getpid()
    removed = [f"a.{host}-{killed.pid}.part", f"checkpoints/last.ckpt.{killed.pid}.part", "figures/b.other-host-1.part"]
    kept = [f"a.{host}-{running}.part", f"latent.{running}.part", "figures/c.other-host-1.part", "figures/curves.png"]
    for name in (*removed, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / f"generated.{killed.pid}.part").mkdir()
    (tmp_path / f"generated.{killed.pid}.part" / "samples.png").write_text("half")
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    os.utime(tmp_path / removed[2], (two_days_ago, two_days_ago))
    with lock_run(tmp_path, "run"):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found - {".lock"} == set(kept)


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond 20 kB, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def log_many_rows(path):
    history = MetricsCSV(path.parent)
    for step in range(2000):
        history.log_metrics({"train/elbo": -0.123456789}, step)


WRITERS = {
    "a.txt": lambda path: atomic_write("x" * 30_000, path),
    "last.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(30_000)}, path),
    "samples.png": lambda path: save(torch.randint(256, (200, 200, 3)).byte().numpy(), path),
    "metrics.csv": log_many_rows,
}


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_file(name, tmp_path):
    with pytest.raises(OSError, match="File too large") as error:
        WRITERS[name](tmp_path / name)
    assert one_line(error.value) == f"{tmp_path / name}: File too large"
    assert not list(tmp_path.glob("*.part"))

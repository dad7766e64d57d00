"""metrics.csv row for row; W&B over the wire: all of a run arrives, and where it cannot, nothing stops."""

import io
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SECONDS
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from wandb_server import WandbServer

from vae.tracking.loggers import MetricsCSV, finish


def test_metrics_csv_has_each_row_on_disk_at_once(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/elbo": torch.tensor(-1.5), "epoch": 1}, step=10)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/elbo,epoch\n10,-1.5,1.0\n"
    logger.log_metrics({"train/elbo": 0.1 + 0.2}, step=20)
    assert logger.rows == [
        {"step": 10, "train/elbo": -1.5, "epoch": 1},
        {"step": 20, "train/elbo": 0.1 + 0.2},
    ]


def test_metrics_csv_takes_a_new_column(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"b": 1.0}, step=0)
    logger.log_metrics({"a": float("-inf")}, step=0)
    logger.log_metrics({"b": 3.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,b,a\n0,1.0,\n0,,-inf\n1,3.0,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_has_no_step_twice(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"x": step}, step)
    resumed = MetricsCSV(tmp_path)
    resumed.resume_from(2)
    resumed.log_metrics({"x": 30.0, "y": 0.0}, 3)
    assert resumed.rows == [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"step": 3, "x": 30, "y": 0}]


def test_resuming_without_a_file_is_fine(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.resume_from(2)
    assert logger.rows == []


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """lines() -> what vae.tracking.loggers has told the user so far."""
    caplog.set_level(logging.INFO, "vae.tracking.loggers")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "vae.tracking.loggers"]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_all_of_a_run_arrives(start: Callable[..., WandbLogger]) -> None:
    config = {"latent_dim": 20, "trainer": {"max_epochs": 3, "limits": [1, None]}, "prior": {"_target_": "P"}}
    grey = np.arange(0, 255, 4, dtype=np.uint8).reshape(8, 8)
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    with WandbServer() as server:
        logger = start(server.env)
        logger.log_hyperparams(config)
        logger.log_metrics({"train/elbo": -3.0}, step=10)
        logger.log_metrics({"val/elbo": -4.0}, step=10)
        logger.log_image("val/samples", [grey, colour], step=10)
        logger.log_metrics({"val/elbo": -5.0}, step=20)
        finish(0)
        (run,) = server.runs.values()
    assert (run.about["project"], run.about["groupName"], run.about["tags"]) == ("vae", "sweep", ["a", "b"])
    assert run.about["displayName"] == "run"
    assert {name: run.config[name] for name in config} == config
    rows = [{name: row[name] for name in row if not name.startswith("_")} for row in run.history]
    names = rows[2].pop("val/samples")["filenames"]
    assert rows == [
        {"train/elbo": -3, "trainer/global_step": 10},
        {"val/elbo": -4, "trainer/global_step": 10},
        {"trainer/global_step": 10},
        {"val/elbo": -5, "trainer/global_step": 20},
    ]
    assert (run.summary["train/elbo"], run.summary["val/elbo"]) == ({"max": -3}, {"max": -4})
    for name, image in zip(names, (grey, colour), strict=True):
        np.testing.assert_array_equal(pixels(run.files[name]), image)
    assert run.exit_code == 0


def test_runs_after_another_stay_apart_and_keep_their_exit_code(start: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        for code in (0, 1, 143):
            start(server.env, f"run{code}").log_metrics({"code": code}, step=0)
            finish(code)
        runs = list(server.runs.values())
    assert [(run.exit_code, run.summary["code"], len(run.history)) for run in runs] == [
        (0, 0, 1),
        (1, 1, 1),
        (143, 143, 1),
    ]


def test_a_resumed_run_goes_on(start: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        for step in (1, 2):
            start(server.env).log_metrics({"x": step}, step)
            finish(130)
        (run,) = server.runs.values()
    assert [(row["_step"], row["x"]) for row in run.history] == [(0, 1), (1, 2)]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class Terminal(io.StringIO):
    """Somebody could be asked here, and must not be."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_args: Any) -> str:
        pytest.fail("a prompt")


def test_without_a_key_it_is_offline_and_nobody_is_asked(
    start: Callable[..., WandbLogger], monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(sys, stream, Terminal())
    assert start({}).experiment.offline
    assert "no API key" in lines()[0]
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(("mode", "offline", "disabled"), [("offline", True, False), ("disabled", False, True)])
def test_wandb_mode_is_obeyed(
    mode: str,
    offline: bool,
    disabled: bool,
    start: Callable[..., WandbLogger],
    lines: Callable[[], list[str]],
) -> None:
    run = start({"WANDB_MODE": mode, "WANDB_API_KEY": "k" * 40}).experiment
    assert (run.offline, run.disabled, len(lines())) == (offline, disabled, offline)


@pytest.mark.parametrize("trouble", ["unreachable", "silent", "refused", "broken", "malformed key"])
def test_a_server_in_trouble_means_offline_in_time_and_one_line(
    trouble: str,
    start: Callable[..., WandbLogger],
    lines: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    env = {"WANDB_API_KEY": "k" * 40}
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        WandbServer(status=401) as refusing,
        WandbServer(status=500) as broken,
    ):
        env |= {
            "unreachable": {"WANDB_BASE_URL": closed_port()},
            "silent": {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            "refused": refusing.env,
            "broken": broken.env,
            "malformed key": refusing.env | {"WANDB_API_KEY": "k"},
        }[trouble]
        since = time.monotonic()
        logger = start(env)
        assert time.monotonic() - since < SECONDS + 6
    assert logger.experiment.offline
    logger.log_metrics({"x": 1.0}, step=0)
    finish(0)
    (line,) = lines()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert line.endswith(f"python -m vae.sync {tmp_path}")
    assert capfd.readouterr() == ("", "")


def test_a_server_that_dies_stops_nothing(start: Callable[..., WandbLogger], lines: Callable[[], list[str]]) -> None:
    with WandbServer() as server:
        logger = start(server.env)
    logger.log_metrics({"x": 1.0}, step=0)
    since = time.monotonic()
    finish(0)
    assert time.monotonic() - since < SECONDS + 6
    assert lines()[-1].endswith(f"wandb sync --include-online {logger.experiment.sync_dir}")
    assert start({}, "next").version != logger.version


def own_wandb_core(stat: Path) -> bool:
    """Is this /proc/<pid>/stat that of a wandb-core started by this process?"""
    try:
        pid_and_name, rest = stat.read_text().rsplit(")", 1)
    except OSError:  # that process has ended since
        return False
    return pid_and_name.endswith("(wandb-core") and int(rest.split()[1]) == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds wandb's own process through Linux's /proc")
def test_the_death_of_wandbs_own_process_stops_nothing(start: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        logger = start(server.env)
        (pid,) = [path.parent.name for path in Path("/proc").glob("[0-9]*/stat") if own_wandb_core(path)]
        os.kill(int(pid), signal.SIGKILL)
        for step in range(3):
            logger.log_metrics({"x": 1.0}, step)
        finish(0)
        start(server.env, "next").log_metrics({"x": 2.0}, step=0)
        finish(0)
        assert list(server.runs.values())[-1].exit_code == 0

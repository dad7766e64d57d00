"""metrics.csv, and what W&B receives: all data of a run, and no error in the training if W&B fails."""

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
from conftest import WANDB_TIMEOUT
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from wandb_server import WandbServer

from vae.tracking.metrics_csv import MetricsCSV
from vae.tracking.wandb_run import finish_wandb


def test_metrics_csv_is_written_row_by_row(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/elbo": torch.tensor(-1.5), "epoch": 1}, step=10)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/elbo,epoch\n10,-1.5,1.0\n"
    logger.log_metrics({"train/elbo": 0.1 + 0.2}, step=20)
    assert logger.rows == [
        {"step": 10, "train/elbo": -1.5, "epoch": 1},
        {"step": 20, "train/elbo": 0.1 + 0.2},
    ]


def test_a_new_metric_adds_a_column_to_metrics_csv(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"b": 1.0}, step=0)
    logger.log_metrics({"a": float("-inf")}, step=0)
    logger.log_metrics({"b": 3.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,b,a\n0,1.0,\n0,,-inf\n1,3.0,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"x": step}, step)
    resumed = MetricsCSV(tmp_path)
    resumed.drop_rows_after(2)
    resumed.log_metrics({"x": 30.0, "y": 0.0}, 3)
    assert resumed.rows == [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"step": 3, "x": 30, "y": 0}]


def test_a_run_without_metrics_csv_can_be_resumed(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.drop_rows_after(2)
    assert logger.rows == []


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """messages() returns the messages that vae.tracking.wandb_run has logged so far."""
    caplog.set_level(logging.INFO, "vae.tracking.wandb_run")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "vae.tracking.wandb_run"]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_wandb_receives_all_data_of_a_run(start_wandb: Callable[..., WandbLogger]) -> None:
    config = {"latent_dim": 20, "trainer": {"max_epochs": 3, "limits": [1, None]}, "prior": {"_target_": "P"}}
    grey = np.arange(0, 255, 4, dtype=np.uint8).reshape(8, 8)
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    with WandbServer() as server:
        logger = start_wandb(server.env)
        logger.log_hyperparams(config)
        logger.log_metrics({"train/elbo": -3.0}, step=10)
        logger.log_metrics({"val/elbo": -4.0}, step=10)
        logger.log_image("val/samples", [grey, colour], step=10)
        logger.log_metrics({"val/elbo": -5.0}, step=20)
        finish_wandb(0)
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


def test_consecutive_runs_are_separate_and_keep_their_exit_codes(start_wandb: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        for code in (0, 1, 143):
            start_wandb(server.env, f"run{code}").log_metrics({"code": code}, step=0)
            finish_wandb(code)
        runs = list(server.runs.values())
    assert [(run.exit_code, run.summary["code"], len(run.history)) for run in runs] == [
        (0, 0, 1),
        (1, 1, 1),
        (143, 143, 1),
    ]


def test_a_resumed_run_continues_its_wandb_run(start_wandb: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        for step in (1, 2):
            start_wandb(server.env).log_metrics({"x": step}, step)
            finish_wandb(130)
        (run,) = server.runs.values()
    assert [(row["_step"], row["x"]) for row in run.history] == [(0, 1), (1, 2)]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class Terminal(io.StringIO):
    """An interactive terminal that must not be prompted."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_args: Any) -> str:
        pytest.fail("the user was prompted")


def test_without_an_api_key_wandb_is_offline_and_does_not_prompt(
    start_wandb: Callable[..., WandbLogger], monkeypatch: pytest.MonkeyPatch, messages: Callable[[], list[str]]
) -> None:
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(sys, stream, Terminal())
    assert start_wandb({}).experiment.offline
    assert "no API key" in messages()[0]
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(("mode", "offline", "disabled"), [("offline", True, False), ("disabled", False, True)])
def test_wandb_mode_is_respected(
    mode: str,
    offline: bool,
    disabled: bool,
    start_wandb: Callable[..., WandbLogger],
    messages: Callable[[], list[str]],
) -> None:
    run = start_wandb({"WANDB_MODE": mode, "WANDB_API_KEY": "k" * 40}).experiment
    assert (run.offline, run.disabled, len(messages())) == (offline, disabled, offline)


@pytest.mark.parametrize("failure", ["unreachable", "silent", "rejected", "broken", "malformed key"])
def test_with_a_failing_server_wandb_is_offline_after_the_timeout_and_says_why(
    failure: str,
    start_wandb: Callable[..., WandbLogger],
    messages: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    env = {"WANDB_API_KEY": "k" * 40}
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        WandbServer(status=401) as rejecting,
        WandbServer(status=500) as broken,
    ):
        env |= {
            "unreachable": {"WANDB_BASE_URL": closed_port()},
            "silent": {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            "rejected": rejecting.env,
            "broken": broken.env,
            "malformed key": rejecting.env | {"WANDB_API_KEY": "k"},
        }[failure]
        start = time.monotonic()
        logger = start_wandb(env)
        assert time.monotonic() - start < WANDB_TIMEOUT + 6
    assert logger.experiment.offline
    logger.log_metrics({"x": 1.0}, step=0)
    finish_wandb(0)
    (message,) = messages()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert message.endswith(f"vae sync {os.path.relpath(tmp_path)}")
    assert capfd.readouterr() == ("", "")


def test_a_server_that_stops_does_not_stop_the_run(
    start_wandb: Callable[..., WandbLogger], messages: Callable[[], list[str]]
) -> None:
    with WandbServer() as server:
        logger = start_wandb(server.env)
    logger.log_metrics({"x": 1.0}, step=0)
    start = time.monotonic()
    finish_wandb(0)
    assert time.monotonic() - start < WANDB_TIMEOUT + 6
    assert messages()[-1].endswith(f"wandb sync --include-online {logger.experiment.sync_dir}")
    assert start_wandb({}, "next").version != logger.version


def own_wandb_core(stat: Path) -> bool:
    """Return whether /proc/<pid>/stat is that of a wandb-core started by this process."""
    try:
        pid_and_name, rest = stat.read_text().rsplit(")", 1)
    except OSError:  # that process has ended
        return False
    return pid_and_name.endswith("(wandb-core") and int(rest.split()[1]) == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc to find wandb's process")
def test_killing_wandbs_process_does_not_stop_the_run(start_wandb: Callable[..., WandbLogger]) -> None:
    with WandbServer() as server:
        logger = start_wandb(server.env)
        (pid,) = [path.parent.name for path in Path("/proc").glob("[0-9]*/stat") if own_wandb_core(path)]
        os.kill(int(pid), signal.SIGKILL)
        for step in range(3):
            logger.log_metrics({"x": 1.0}, step)
        finish_wandb(0)
        start_wandb(server.env, "next").log_metrics({"x": 2.0}, step=0)
        finish_wandb(0)
        assert list(server.runs.values())[-1].exit_code == 0

"""metrics.csv row for row, and W&B over the wire: all that arrives, and a training that goes on when nothing can."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from tests.wandb_server import WandbServer
from vae.loggers import MetricsCSV, finish, wandb_logger

SECONDS = 2.0  # how long the tests let W&B wait


def test_metrics_csv_has_each_row_on_disk_at_once(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/elbo": torch.tensor(-1.5), "epoch": 1}, step=10)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/elbo,epoch\n10,-1.5,1.0\n"
    logger.log_metrics({"train/elbo": 0.1 + 0.2}, step=20)
    assert logger.rows == [{"step": 10, "train/elbo": -1.5, "epoch": 1}, {"step": 20, "train/elbo": 0.1 + 0.2}]


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
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No key, settings or run of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield monkeypatch
    finish(0)
    wandb.teardown()


@pytest.fixture
def start(tmp_path: Path, isolated: pytest.MonkeyPatch) -> Callable[..., WandbLogger]:
    """start(**env) -> the logger of the run in tmp_path/<run>."""

    def start(env: dict[str, str], run: str = "run") -> WandbLogger:
        for name, value in env.items():
            isolated.setenv(name, value)
        (tmp_path / run).mkdir(exist_ok=True)
        about = {"project": "vae", "name": run, "group": "sweep", "tags": ["a", "b"], "notes": None}
        return wandb_logger(tmp_path / run, tmp_path, **about, timeout=SECONDS, finish_timeout=SECONDS)

    return start


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_all_of_a_run_arrives(start: Callable[..., WandbLogger]) -> None:
    config = {"latent_dim": 20, "trainer": {"max_epochs": 3, "limits": [1, None]}, "likelihood": {"_target_": "L"}}
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
    assert (run.summary["train/elbo"], run.summary["val/elbo"]) == (-3, -5)
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

"""python -m vae.sync and vae.dashboard, as they are typed, against a stand-in for the W&B server."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import WandbServer

from vae import dashboard
from vae.config.schema import CONF
from vae.tracking.loggers import finish


@pytest.fixture
def command(isolated_wandb):  # noqa: ARG001 (nothing of whoever runs the tests)
    """command(module, *arguments, **env) -> the exit code of python -m vae.<module> and what it printed."""

    def command(module: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", f"vae.{module}", *arguments],
            env=os.environ | {"PYTHONPATH": str(CONF.parent)} | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return command


def kept(start: Any, run: str, values: list[float], **about: Any) -> Path:
    """The folder of a run that was kept offline."""
    logger = start({"WANDB_MODE": "offline"}, run, **about)
    for step, value in enumerate(values):
        logger.log_metrics({"x": value}, step)
    folder = Path(logger.experiment.sync_dir)
    (folder.parent.parent / run / "checkpoints").mkdir(exist_ok=True)
    (folder.parent.parent / run / "checkpoints" / "best.ckpt").write_text("best")
    logger.finalize("success")
    finish(0)
    wandb.teardown()  # only now is all of it on the disk
    return folder


def test_sync_sends_each_offline_run_once(start, command, tmp_path):
    kept(start, "first", [1.0, 2.0], log_model=True)
    kept(start, "second", [3.0])
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), **server.env, WANDB_MODE="offline")
        assert (code, out.splitlines()[-1]) == (0, "2 sent, 0 sent before, 0 left, 0 failed")
        assert [line.split()[0] for line in out.splitlines()[:-1]] == ["1/2", "2/2"]
        arrived = {run.about["displayName"]: [row["x"] for row in run.history] for run in server.runs.values()}
        assert arrived == {"first": [1, 2], "second": [3]}
        assert [run.about["groupName"] for run in server.runs.values()] == ["sweep", "sweep"]
        assert [artifact.files["best.ckpt"] for artifact in server.artifacts.values()] == [b"best"]
        server.runs.clear()
        code, out, _ = command("sync", f"outputs={tmp_path}", **server.env)
        assert (code, out, server.runs) == (0, "0 sent, 2 sent before, 0 left, 0 failed\n", {})


def cut(run: Path) -> None:
    """As if it had been killed, or were not at its end yet."""
    (log,) = run.glob("*.wandb")
    log.write_bytes(log.read_bytes()[:-20])


def test_sync_names_and_leaves_a_run_that_is_under_way_or_damaged_and_what_goes_on_from_it(start, command, tmp_path):
    damaged = kept(start, "damaged", [1.0])
    after = damaged.with_name(damaged.name.replace("offline-run-", "offline-run-9"))
    shutil.copytree(damaged, after)
    (log,) = damaged.glob("*.wandb")
    log.write_bytes(log.read_bytes().replace(b"damaged", b"dAmaged", 1))  # its checksum does not know
    begun = kept(start, "begun", [1.0])
    cut(begun)
    kept(start, "whole", [2.0])
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), **server.env)
        assert [run.about["displayName"] for run in server.runs.values()] == ["whole"]
    lines = {line.split()[1]: line for line in out.splitlines()[:-1]}
    assert lines[damaged.name].endswith("left: damaged")
    assert "goes on from" in lines[after.name]
    assert lines[begun.name].endswith(f"under way, or cut off; to send what there is: wandb sync {begun}")
    assert (code, out.splitlines()[-1]) == (0, "1 sent, 0 sent before, 3 left, 0 failed")


def test_sync_sends_all_parts_of_a_run_that_was_killed_and_resumed(start, command, tmp_path):
    killed = kept(start, "run", [1.0])
    cut(killed)
    killed.rename(killed.with_name(killed.name.replace("offline-run-2", "offline-run-1")))  # a while ago
    kept(start, "run", [2.0])
    with WandbServer() as server:
        for said in ("2 sent, 0 sent before, 0 left, 0 failed", "0 sent, 2 sent before, 0 left, 0 failed"):
            code, out, _ = command("sync", str(tmp_path), **server.env)
            assert (code, out.splitlines()[-1]) == (0, said)
        (run,) = server.runs.values()
    assert [(row["_step"], row["x"]) for row in run.history] == [(0, 1), (1, 2)]


def test_sync_says_what_failed(start, command, tmp_path, monkeypatch):
    kept(start, "run", [1.0])
    monkeypatch.setattr(WandbServer, "file_stream", None)  # the server breaks off
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), "timeout=3", **server.env)
    assert code == 1
    assert "failed: not sent within 3 s" in out
    assert out.endswith("\n0 sent, 0 sent before, 0 left, 1 failed\n")


TROUBLES = {"no key": "no API key", "malformed key": "40+ characters", "refused": "401", "unreachable": "API request"}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("module", ["sync", "dashboard"])
def test_without_a_server_that_lets_one_in_there_is_one_line_in_time(module, trouble, start, command, tmp_path):
    kept(start, "run", [1.0])
    with WandbServer(401) as refusing:
        env = {
            "no key": {},
            "malformed key": refusing.env | {"WANDB_API_KEY": "k"},
            "refused": refusing.env,
            "unreachable": refusing.env | {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_HTTP_TIMEOUT": "2"},
        }[trouble]
        since = time.monotonic()
        code, out, err = command(module, str(tmp_path) if module == "sync" else "project=vae", **env)
    assert time.monotonic() - since < 20
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert TROUBLES[trouble] in err


@pytest.mark.parametrize(
    ("module", "argument", "words"),
    [
        ("sync", "nowhere", ["outputs=nowhere", "no wandb/"]),
        ("sync", "timeout=0", ["timeout=0", "above 0"]),
        ("dashboard", "project=", ["project=", "name of a W&B project"]),
        ("dashboard", "entity=me", ["project: missing"]),
        ("dashboard", "vae", ["vae: expected key=value", "project, entity"]),
    ],
)
def test_a_command_refuses_in_one_line(module, argument, words, command):
    code, out, err = command(module, argument)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def panels(view: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The settings of a view's panels of one kind, from top to bottom."""
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    return [p["config"] for section in sections for p in section["panels"] if p["viewType"] == kind]


def test_the_dashboard_shows_curves_shapes_pictures_and_differences(command):
    with WandbServer() as server:
        code, out, _ = command("dashboard", "project=vae", **server.env)
        (view,) = server.views
    assert (code, view["entityName"], view["projectName"]) == (0, "team", "vae")
    assert out == f"{server.url}/team/vae?nw={view['name'].split('-')[1]}\n"
    curves = [(panel["xAxis"], panel["metrics"]) for panel in panels(view, "Run History Line Plot")]
    assert curves == [
        (axis, [f"train/{name}", f"val/{name}"])
        for axis in ("trainer/global_step", "images_seen")
        for name in ("elbo", "kl", "log_likelihood")
    ]
    (shapes,) = panels(view, "Parallel Coordinates Plot")
    assert [column["accessor"] for column in shapes["columns"]] == [
        *(f"config:{key}.value" for key in ("latent_dim", "hidden_size", "activation")),
        "summary:test/log_px",
    ]
    shown = {key for panel in panels(view, "Media Browser") for key in panel["mediaKeys"]}
    assert {"samples", "reconstructions", "fusions"} <= shown
    assert panels(view, "Run Comparer") == [{"diffOnly": "split"}]


def test_the_dashboard_s_entity_is_the_one_named_or_the_account_s_own(command):
    with WandbServer() as server:
        for arguments in (["entity=lab"], []):
            command("dashboard", "project=vae", *arguments, **server.env | {"WANDB_ENTITY": ""})
        assert [view["entityName"] for view in server.views] == ["lab", "team"]


def test_the_dashboard_without_its_library_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setattr(sys, "argv", ["vae.dashboard", "project=vae"])
    assert dashboard.cli() == 2
    assert capsys.readouterr().err == "vae.dashboard needs wandb-workspaces: pip install wandb-workspaces\n"

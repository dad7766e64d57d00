"""Run folders that name code to run, at every place of a config, with every command: all are refused."""

import copy
import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import compose_config
from omegaconf import OmegaConf
from yaml import safe_dump

import train
from vae.config.schema import CONF
from vae.config.stored_arguments import sweep_arguments
from vae.config.stored_config import check_config, use_own_places
from vae.errors import UserError
from vae.evaluate import __main__ as evaluate
from vae.explore import __main__ as explore
from vae.export import __main__ as export
from vae.generate import __main__ as generate
from vae.latent import __main__ as latent
from vae.training import experiment

PLACES = [
    *("architecture", "architecture.decoder", "architecture.encoder", "architecture.encoder.channels.0"),
    *("dataset", "likelihood", "likelihood.x.y.z", "logger", "logger.wandb.tags.0", "objective", "objective.schedule"),
    *("optimizer", "optimizer.schedule", "posterior", "prior", "prior.hidden_size", "test", "trainer"),
    *("trainer.plugins.0", "trainer.callbacks.0", "trainer.logger", "callbacks.0", "hydra.callbacks.x", "mine"),
]
TOUCH = {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["owned"]}]}
PAYLOADS = {
    "pathlib.Path.write_text": {"_target_": "pathlib.Path.write_text", "_args_": [*TOUCH["_args_"], "x"]},
    "pathlib.Path.unlink": {"_target_": "pathlib.Path.unlink", "_args_": TOUCH["_args_"]},
    "pathlib.Path.touch": TOUCH,
    "shutil.copytree": {"_target_": "shutil.copytree", "src": ".", "dst": "owned"},
    "shutil.rmtree": {"_target_": "shutil.rmtree", "path": "."},
    "os.system": {"_target_": "os.system", "command": "touch owned"},
    "subprocess.run": {"_target_": "subprocess.run", "args": ["touch", "owned"]},
    "builtins.exec": {"_target_": "builtins.exec", "_args_": ["open('owned', 'w')"]},
    "builtins.open": {"_target_": "builtins.open", "file": "owned", "mode": "w"},
    "numpy.load": {"_target_": "numpy.load", "file": "x.npy", "allow_pickle": True},
    "numpy.save": {"_target_": "numpy.save", "file": "owned", "arr": [1]},
    "torch.load": {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
    "torch.save": {"_target_": "torch.save", "obj": 1, "f": "owned"},
    "torch.hub.load": {"_target_": "torch.hub.load", "repo_or_dir": "x/y", "model": "z"},
    "joblib.load": {"_target_": "joblib.load", "filename": "x"},
    "site.addsitedir": {"_target_": "site.addsitedir", "sitedir": "."},
    "hydra.utils.get_method": {"_target_": "hydra.utils.get_method", "path": "os.system"},
    "a module beside the run": {"_target_": "owned_module.Prior"},
    "a class as a value": {"x": {"_target_": "${latent_dim}"}},
    "a class of another group": {"_target_": "datamodules.fetch.fetch"},
    "an environment variable": "${oc.env:HOME}",
    "a resolver in a key": "${oc.${seed}:HOME}",
    "a nested config": "${oc.create:{_target_: os.system}}",
}
COMMANDS = {"evaluate": evaluate, "generate": generate, "latent": latent, "export": export, "explore": explore}


def poison(cfg, place, payload):
    """Return a plain config with a payload at a place; missing parents and lists are made."""
    cfg = copy.deepcopy(cfg)
    node, keys = cfg, place.split(".")
    for key, following in pairwise(keys):
        if not isinstance(node.get(key), dict) or following == "0":
            node[key] = {}
        node = node[key]
        if following == "0":
            break
    if keys[-1] == "0":
        node["list"] = [PAYLOADS[payload]]
    else:
        node[keys[-1]] = PAYLOADS[payload]
    return cfg


@pytest.fixture(scope="module")
def plain():
    return OmegaConf.to_container(compose_config("prior=flow", "architecture=conv"), resolve=False)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_payload_is_refused_at_every_place(payload, plain):
    check_config(OmegaConf.create(plain), "run=x")
    for place in PLACES:
        with pytest.raises(UserError, match=r"^run=x: .*; trust=true allows it$"):
            check_config(OmegaConf.create(poison(plain, place, payload)), "run=x")


def make_finished_run(folder, cfg):
    """Write the files of a finished run that are read before torch is imported."""
    files = {"config": cfg, "overrides": [], "hydra": {"hydra": {"runtime": {"choices": {}}, "mode": "RUN"}}}
    for name, content in files.items():
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        (folder / ".hydra" / f"{name}.yaml").write_text(safe_dump(content))
    (folder / "summary.json").write_text("{}")
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").write_bytes(b"")


@pytest.fixture
def call(module_cli, monkeypatch, capsys, tmp_path):
    """call(command, folder) runs a command on a run folder in an empty folder: (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owned_module.py").write_text("open('owned', 'w')")

    def run(command, folder):
        if command in COMMANDS:
            code, _, err = module_cli(COMMANDS[command])(f"run={folder}")
        else:
            monkeypatch.setattr(sys, "argv", ["train.py", f"{command}={folder}"])
            code, err = train.cli(), capsys.readouterr().err
        return code, err

    return run


@pytest.mark.parametrize("command", [*COMMANDS, "resume"])
def test_every_command_refuses_payloads_at_every_place(command, call, plain, tmp_path):
    for i, place in enumerate(PLACES):
        payload = [*PAYLOADS][i % len(PAYLOADS)]
        make_finished_run(tmp_path / "run", poison(plain, place, payload))
        code, err = call(command, "run")
        assert (code, err.count("\n")) == (2, 1), (place, payload, err)
        assert err.endswith("; trust=true allows it\n"), (place, payload, err)
    assert not (tmp_path / "owned").exists()
    assert "owned_module" not in sys.modules
    assert {path.name for path in Path("run").iterdir()} == {".hydra", "checkpoints", "summary.json"}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_sweep_refuses_payloads_in_its_stored_arguments(payload, call, tmp_path):
    value = json.dumps(PAYLOADS[payload]).replace('"', "")
    for kind, place in (("hydra", "+hydra.callbacks.x"), ("task", "prior"), ("task", "+mine.x")):
        (tmp_path / "swept").mkdir(exist_ok=True)
        stored = {"hydra": [], "task": ["seed=0,1"]}
        stored[kind] = [f"{place}={value}"]
        (tmp_path / "swept" / "sweep.json").write_text(json.dumps(stored))
        code, err = call("sweep", "swept")
        assert (code, err.count("\n")) == (2, 1), err
        assert err.endswith("not allowed in stored arguments; trust=true allows it\n")
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
def test_a_run_does_not_decide_what_is_written_to(cli, runs, module_cli, isolated_wandb):
    isolated_wandb.setenv("WANDB_MODE", "offline")
    cli("trainer.max_epochs=1", "logger=wandb")
    (folder,) = runs()
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    cfg.data_dir, cfg.dataset.data_dir, cfg.logger.wandb.save_dir = "evil/a", "evil/b", "evil/c"
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    for command in (
        lambda: module_cli(evaluate)(f"run={folder}", "K=2")[0],
        lambda: module_cli(latent)(f"run={folder}")[0],
        lambda: cli(f"resume={folder}", "trainer.max_epochs=2", defaults=())[0],
    ):
        shutil.rmtree("data")
        experiment.DATASET_CACHE.clear()
        assert command() == 0
        assert Path("data").is_dir()
        assert not Path("evil").exists()
    experiment.DATASET_CACHE.clear()
    assert cli(f"resume={folder}", "trainer.max_epochs=3", "data_dir=mine", defaults=())[0] == 0
    assert Path("mine").is_dir()
    assert not Path("evil").exists()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    experiment.DATASET_CACHE.clear()
    assert cli(f"resume={folder}", "trust=true", "trainer.max_epochs=4", defaults=())[0] == 0
    assert {path.name for path in Path("evil").iterdir()} >= {"b", "c"}


def test_the_places_of_a_config_are_those_of_this_call(plain, monkeypatch):
    cfg = OmegaConf.create(plain)
    assert use_own_places(cfg) == []
    assert OmegaConf.to_container(cfg, resolve=False) == plain
    cfg.data_dir, cfg.logger = "/evil", {"mine": {"save_dir": "/evil", "deep": {"tracking_uri": "https://evil"}}}
    monkeypatch.setenv("VAE_DATA_DIR", "own")
    assert use_own_places(cfg) == [
        "data_dir=own instead of /evil, which the run folder names",
        "logger.mine.save_dir=None instead of /evil, which the run folder names",
        "logger.mine.deep.tracking_uri=file:outputs/mlruns instead of https://evil, which the run folder names",
    ]
    assert cfg.dataset.data_dir == "own"


PLACES_OF_A_SWEEP = [
    *("data_dir=evil", "dataset.data_dir=evil", "logger.wandb.save_dir=evil", "++logger.wandb={save_dir:evil}"),
    *("logger.mlflow.tracking_uri=file:evil", "hydra.sweeper.params.data_dir='choice(evil,b)'"),
]


@pytest.mark.parametrize("place", PLACES_OF_A_SWEEP)
def test_a_sweep_does_not_decide_what_is_written_to(place, tmp_path, capsys):
    (tmp_path / "sweep.json").write_text(json.dumps({"hydra": [], "task": ["seed=0,1", place]}))
    own = ["-m", "seed=0,1", f"hydra.sweep.dir='{tmp_path}'"]
    assert sweep_arguments([f"sweep={tmp_path}"]) == own
    assert capsys.readouterr().out.startswith(f"{place} is not used")
    for allowed in ([f"sweep={tmp_path}", place], [f"sweep={tmp_path}", "trust=true"]):
        assert sweep_arguments(allowed) == [*own[:2], place, own[2]]
    assert sweep_arguments([f"sweep={tmp_path}", "data_dir=mine"])[-2] == "data_dir=mine"


def test_a_file_beside_a_sweep_is_no_choice_of_its_arguments(call, tmp_path):
    """Hydra would read the file, and create its callbacks."""
    Path("swept").mkdir()
    payload = {"hydra": {"callbacks": {"x": TOUCH}}}
    Path("swept", "evil.yaml").write_text(f"# @package _global_\n{safe_dump(payload)}")
    path = os.path.relpath("swept/evil", CONF / "prior")
    for argument in (f"+prior/x={path}", f"+prior@mine={path}", "+prior/x=${dataset.path}"):
        Path("swept", "sweep.json").write_text(json.dumps({"hydra": [], "task": ["seed=0,1", argument]}))
        code, err = call("sweep", "swept")
        assert (code, err.count("\n")) == (2, 1), err
        assert err.endswith("not allowed in stored arguments; trust=true allows it\n")
    assert not (tmp_path / "owned").exists()

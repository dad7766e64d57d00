"""Run folders that name code to run, at every place of a config, with every command: all are refused."""

import copy
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import compose_config
from omegaconf import OmegaConf
from yaml import safe_dump

import train
from vae.config.stored_config import check_config
from vae.errors import UserError
from vae.evaluate import __main__ as evaluate
from vae.explore import __main__ as explore
from vae.export import __main__ as export
from vae.generate import __main__ as generate
from vae.latent import __main__ as latent

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

"""A run folder is data: it runs no code, reads no environment variable and writes nothing outside itself."""

import json
import sys

import pytest
import yaml
from conftest import compose_config
from omegaconf import OmegaConf

import train
from vae.compare import __main__ as compare
from vae.config.stored_config import check_config, check_links, check_overrides, escape_resolvers, installed
from vae.errors import UserError
from vae.evaluate import __main__ as evaluate
from vae.explore import __main__ as explore
from vae.export import __main__ as export
from vae.generate import __main__ as generate
from vae.latent import __main__ as latent
from vae.runs.run_folder import read_finished_run

COMMANDS = {"evaluate": evaluate, "generate": generate, "latent": latent, "export": export, "explore": explore}


@pytest.fixture
def run_folder(cli, runs):
    assert cli("trainer.max_epochs=1")[0] == 0
    return runs()[0]


def poison(folder, place, node):
    """Replace one place of the stored config."""
    file = folder / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(file)
    OmegaConf.update(cfg, place, node, merge=False, force_add=True)
    OmegaConf.save(cfg, file)


@pytest.mark.parametrize("nested", [{"x": {"_target_": "os.system"}}, {"x": [1, [{"_target_": "os.system"}]]}])
def test_a_foreign_class_is_refused_at_every_depth(nested):
    cfg = compose_config()
    OmegaConf.update(cfg, "prior", nested, force_add=True)
    with pytest.raises(UserError, match=r"os\.system"):
        check_config(cfg, "run=x")


def test_a_class_of_another_group_is_refused():
    """A class of this installation, at a place where no config file has it."""
    cfg = OmegaConf.merge(compose_config(), {"prior": {"_target_": "datamodules.folder.Folder"}})
    with pytest.raises(UserError, match=r"prior\._target_=datamodules"):
        check_config(cfg, "run=x")


def test_every_class_in_conf_is_allowed():
    targets, _ = installed()
    assert {group for group, _ in targets} >= {"dataset", "likelihood", "posterior", "prior", "objective", "optimizer"}
    assert ("prior", "vae.model.priors.VampPrior") in targets
    assert ("architecture", "vae.model.networks.ConvEncoder") in targets
    assert ("objective", "vae.training.schedules.Linear") in targets


RESOLVERS = ["${oc.env:SECRET}", "${ oc.env:SECRET}", "${oc.${seed}:SECRET}", "a ${oc.env:SECRET} b", "${oc.env:${x}}"]


@pytest.mark.parametrize("text", RESOLVERS)
def test_resolvers_are_refused_and_shown_as_text(text, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    cfg = OmegaConf.merge(compose_config(), {"logger": {"wandb": {"notes": [text]}}})
    with pytest.raises(UserError, match="expected a plain value"):
        check_config(cfg, "run=x")
    escaped = OmegaConf.create(escape_resolvers(OmegaConf.to_container(cfg)))
    assert list(escaped.logger.wandb.notes) == [text]


def test_the_resolver_of_conf_itself_is_allowed(monkeypatch):
    monkeypatch.setenv("VAE_DATA_DIR", "somewhere")
    cfg = compose_config()
    check_config(cfg, "run=x")
    assert cfg.data_dir == "somewhere"
    with pytest.raises(UserError, match="data_dir"):
        check_config(OmegaConf.merge(cfg, {"data_dir": "${oc.env:HOME}"}), "run=x")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_foreign_class(command, run_folder, module_cli, tmp_path):
    poison(run_folder, "likelihood", {"_target_": "pathlib.Path.touch", "_args_": ["${oc.env:HOME}"]})
    code, _, err = module_cli(COMMANDS[command])(f"run={run_folder}")
    assert (code, err.count("\n")) == (2, 1)
    assert "likelihood._target_=pathlib.Path.touch: this class is not in conf/likelihood/" in err
    assert not (tmp_path / "owned").exists()


def test_resume_refuses_a_foreign_class_and_ignores_stored_hydra_settings(run_folder, cli, tmp_path):
    hydra = run_folder / ".hydra" / "hydra.yaml"
    stored = yaml.safe_load(hydra.read_text())
    stored["hydra"]["callbacks"] = {"x": {"_target_": "pathlib.Path.touch", "_args_": ["owned"]}}
    hydra.write_text(yaml.safe_dump(stored))
    assert cli(f"resume={run_folder}", defaults=())[0] == 0
    poison(run_folder, "optimizer", {"_target_": "pathlib.Path.touch", "_args_": ["owned"]})
    code, _, err = cli(f"resume={run_folder}", defaults=())
    assert (code, "optimizer._target_=pathlib.Path.touch" in err) == (2, True)
    assert not (tmp_path / "owned").exists()


def test_trust_allows_a_class_that_is_not_in_conf(run_folder, module_cli):
    poison(run_folder, "prior._target_", "vae.model.priors.Prior.__call__")
    assert "trust=true allows it" in module_cli(evaluate)(f"run={run_folder}", "K=2")[2]
    poison(run_folder, "prior._target_", "vae.model.priors.UnitNormal")  # not a prior: the check alone lets it pass
    run = read_finished_run(run_folder, trust=True)
    assert run.config.prior._target_ == "vae.model.priors.UnitNormal"


def test_compare_reads_no_environment_variable(run_folder, module_cli, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    poison(run_folder, "latent_dim", "${oc.env:SECRET}")
    overrides = run_folder / ".hydra" / "overrides.yaml"
    overrides.write_text(overrides.read_text() + "- latent_dim=3\n")
    code, out, _ = module_cli(compare)(str(run_folder))
    assert code == 0
    assert "hunter2" not in out + (run_folder / "compare.html").read_text() + (run_folder / "compare.csv").read_text()


ALLOWED = [
    "prior._target_=vae.model.priors.Flow",
    "latent_dim=2,3",
    "hydra.mode=MULTIRUN",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "search=mnist",
    "dataset.path=../pictures",
    "hydra.sweep.subdir=${hydra.job.num}",
    "hydra.sweeper.params.latent_dim='choice(2,3)'",
    "hydra.sweeper.params={latent_dim: 'choice(2,3)', optimizer.lr: 'interval(0.1,0.2)'}",
]
REFUSED = [
    "hydra.callbacks.x._target_=os.system",
    "+hydra.callbacks.x={_target_: os.system}",
    "hydra.launcher.setup=[reboot]",
    "hydra.job.chdir=true",
    "hydra.searchpath=[file:///tmp]",
    "prior._target_=os.system",
    "prior._target_=datamodules.folder.Folder",
    "prior={_target_: vae.model.priors.Flow}",
    "+prior={_target_: os.system}",
    "logger.wandb.notes=${oc.env:SECRET}",
    "hydra.sweeper.storage=mysql://example",
    "hydra.sweep.subdir=../x",
    "hydra.sweep.subdir=${dataset.path}",
    "hydra.sweeper.params.hydra.sweep.dir='choice(a,b)'",
    "hydra.sweeper.params.hydra.job.env_set.LD_PRELOAD='choice(a,b)'",
    "hydra.sweeper.params={hydra.sweep.dir: 'choice(a,b)'}",
    "hydra.launcher.name='x\nreboot'",
    "+sweep=../../outputs/x",
    "+prior@mine=../x",
    "prior=${dataset.path}",
]


def test_stored_arguments_of_a_sweep():
    check_overrides(ALLOWED, "sweep=x")
    for override in REFUSED:
        with pytest.raises(UserError, match=r"^sweep=x: (.|\n)*trust=true allows it$"):
            check_overrides([*ALLOWED, override], "sweep=x")


DAMAGED = ["", "[]", "{}", "[" * 100_000, '{"hydra": [], "task": [1]}', '{"hydra": {}, "task": "seed=0,1"}', "\0"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_sweep_json_is_one_line(content, tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["train.py", f"sweep={tmp_path}"])
    assert train.cli() == 2
    assert capsys.readouterr().err == f"{tmp_path}/sweep.json: damaged; expected the arguments of a sweep\n"


def test_a_sweep_with_foreign_arguments_is_refused(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    stored = {"hydra": ["hydra.callbacks.x={_target_: pathlib.Path.touch, _args_: [owned]}"], "task": ["latent_dim=2"]}
    (folder / "sweep.json").write_text(json.dumps(stored))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", f"sweep={folder}"])
    assert train.cli() == 2
    assert "not allowed in stored arguments" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name", ["metrics.tmp", "train.log", "figures/curves.part", "generated", "checkpoints/last.ckpt"]
)
def test_links_out_of_the_folder_are_refused(name, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "figures").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    outside.write_text("mine")
    (folder / "inside.txt").write_text("")
    (folder / "fine").symlink_to("inside.txt")
    check_links(folder, "run=x")
    (folder / name).symlink_to(outside)
    with pytest.raises(UserError, match=f"^run=x: {name} is a link out of the folder"):
        check_links(folder, "run=x")


@pytest.mark.parametrize("command", [*COMMANDS, "resume"])
def test_no_command_writes_through_a_link(command, run_folder, cli, module_cli, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (run_folder / "metrics.tmp").symlink_to(outside)
    if command == "resume":
        code, _, err = cli(f"resume={run_folder}", defaults=())
    else:
        code, _, err = module_cli(COMMANDS[command])(f"run={run_folder}")
    assert code == 2
    assert "metrics.tmp is a link out of the folder" in err
    assert outside.read_text() == "mine"

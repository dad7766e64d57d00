"""The command line: keys, choices, help and error messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import compose_config
from omegaconf import OmegaConf

from datamodules.labels import one_hot
from vae.config.command_line import choices, folder_name, run_name
from vae.config.schema import CONF, Config, validate
from vae.training.build import build

ROOT = CONF.parent
ROOT_KEYS = [
    "latent_dim",
    "hidden_size",
    "activation",
    "batch_size",
    "seed",
    "conditional",
    "data_dir",
    "log_every_n_steps",
    "gradient_clip_val",
    "skip_gradient_norm",
    "ema",
    "patience",
    "compile",
    "cuda_graph",
    "matmul_precision",
    "resume",
    "test",
]
GROUPS = {
    "architecture": ["conv", "gated_mlp", "ladder", "mlp"],
    "dataset": [
        "animals",
        "array",
        "caltech101",
        "celeba",
        "cifar10",
        "digits",
        "emnist",
        "emoji",
        "fashion_mnist",
        "fasta",
        "folder",
        "frey",
        "kmnist",
        "mnist",
        "omniglot",
        "pokemon",
        "shapes",
        "svhn",
    ],
    "experiment": [
        "altosaar",
        "autoencoder",
        "burda2015_iwae",
        "burda2015_vae",
        "fashion",
        "frey",
        "frey_logistic",
        "kingma2013_frey",
        "kingma2013_mnist",
        "lesson",
        "mnist_best",
        "pokemon",
        "pokemon_long",
        "pytorch_example",
        "tomczak2017_vae",
        "tomczak2017_vamp",
        "tomczak2017_vamp_fast",
    ],
    "likelihood": [
        "auto",
        "bernoulli",
        "categorical",
        "categorical_17",
        "continuous_bernoulli",
        "discretized_logistic",
        "gaussian",
        "grey_cross_entropy",
        "one_hot",
        "pixel_art",
        "pixel_gaussian",
        "pixelcnn",
        "pixelcnn_logistic",
        "shades",
    ],
    "callbacks": ["model_summary", "none"],
    "logger": ["csv", "mlflow", "none", "tensorboard", "wandb"],
    "noise": ["gaussian", "masking", "none"],
    "objective": [
        *("autoencoder", "beta", "beta_tc", "capacity", "dip", "dreg", "elbo", "free_bits", "free_bits_4", "info"),
        *("iwae", "m2"),
    ],
    "objective/schedule": ["constant", "cyclical", "linear"],
    "optimizer": ["adadelta", "adagrad", "adam", "adamw", "rmsprop", "sgd"],
    "optimizer/schedule": ["burda2015", "constant", "one_cycle"],
    "posterior": ["diagonal_gaussian", "iaf", "ladder", "point"],
    "prior": ["diagonal_gaussian", "flow", "mixture", "standard_normal", "two_layers", "vampprior"],
    "search": ["mnist"],
    "trainer": ["ddp", "default", "gpu"],
}
FILES = [(group, choice) for group in GROUPS for choice in choices(group) if choice != "auto"]


def test_root_keys_and_choices():
    groups = {group.split("/")[0] for group in GROUPS} - {"experiment", "search"}
    assert set(compose_config()) == set(Config.model_fields) == {*ROOT_KEYS, *groups}
    found = {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")} - {
        ".",
        "hydra/help",
        "hydra/hydra_logging",
        "hydra/job_logging",
        "sweep",  # for `wandb sweep`
    }
    assert {group: choices(group) for group in found} == GROUPS


REQUIRED_OVERRIDES = {
    "dataset=array": ["dataset.path=x.npy", "likelihood=bernoulli"],
    "dataset=fasta": ["dataset.path=genome.fa"],
    "dataset=folder": ["dataset.path=pictures"],
    "objective/schedule": ["objective=beta"],
    "posterior=ladder": ["architecture=ladder"],
    "posterior=point": ["objective=autoencoder"],
}


@pytest.mark.parametrize(("group", "choice"), FILES)
def test_every_choice_is_valid_and_trains_a_step(group, choice):
    cfg = compose_config(
        *REQUIRED_OVERRIDES.get(f"{group}={choice}", REQUIRED_OVERRIDES.get(group, [])),
        f"{group}={choice}",
        "hidden_size=8",
    )
    validate(cfg)
    labels = 2 if cfg.conditional else 0
    module = build(cfg, (3, 6, 4), labels)
    x = torch.tensor([0.0, 1.0])[torch.randint(2, (5, 3, 6, 4))]
    y = [one_hot(torch.tensor([0, 1, 0, 1, 1]), labels)] if labels else []
    before = [p.clone() for p in module.parameters()]
    optimizer = module.optimizer(module.parameters())
    for _ in range(4):  # layers before one that is initialised with zeros have a gradient only after it has changed
        optimizer.zero_grad()
        loss = -module.compute_metrics(x, module.objective.weight(0.5), *y)[-1].mean()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(p, q) for p, q in zip(before, module.parameters(), strict=True) if q.requires_grad)


def test_defaults_and_the_lesson_experiment():
    cfg = compose_config()
    assert (cfg.latent_dim, cfg.hidden_size, cfg.activation, cfg.batch_size) == (20, 500, "tanh", 200)
    lesson = compose_config("experiment=lesson")
    assert lesson.dataset.binarize == "threshold"
    assert lesson.optimizer._target_ == "torch.optim.Adadelta"
    assert (lesson.batch_size, lesson.trainer.max_steps, lesson.log_every_n_steps) == (200, 100_000, 1000)


def test_the_command_line_overrides_the_dataset():
    assert compose_config("likelihood=continuous_bernoulli").likelihood._target_.endswith("ContinuousBernoulli")


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_file_states_its_result(path):
    comment = " ".join(path.read_text().split("\n\n")[0].replace("\n#", "").split())
    assert re.search("[Rr]eached test/(elbo|log_px|squared_error|minus_cross_entropy)", comment)


USER_ERRORS = {
    "latent_dim=0": ["latent_dim=0", "whole number, 1 or more"],
    "latent_dim=abc": ["latent_dim=abc", "whole number"],
    "latent_dim=2.5": ["latent_dim=2.5", "whole number"],
    "hidden_size=[]": ["hidden_size=[]", "list of them"],
    "hidden_size=[10,-1]": ["hidden_size=[10, -1]", "1 or more"],
    "activation=foo": ["activation=foo", "'tanh'", "'identity'"],
    "activation=rellu": ["did you mean relu?"],
    "dataset=foo": ["dataset=foo", "mnist"],
    "dataset=mnits": ["did you mean mnist?"],
    "dataset.binarize=dynamc": ["dataset.binarize=dynamc", "'static'", "did you mean dynamic?"],
    "trainer.max_epochs=-3": ["trainer.max_epochs=-3", "-1 for no limit"],
    "trainer.max_epochs=-1": ["trainer.max_epochs=-1", "trainer.max_steps"],
    "optimizer.lr=-1": ["optimizer.lr=-1", "above 0"],
    "optimizer.schedule.warmup=1": ["optimizer.schedule.warmup=1", "between 0 and 1"],
    "trainer=ddp trainer.devices=0": ["trainer.devices=0", "1 or more"],
    "trainer.devices=2": ["trainer.devices: no such key"],
    "compile=maybe": ["compile=maybe", "auto, true or false"],
    "batch_size=0": ["batch_size=0", "1 or more"],
    "dataset.batch_size=0": ["dataset.batch_size=0", "1 or more"],
    "optimizer.lr=inf": ["optimizer.lr=inf", "above 0"],
    "trainer.check_val_every_n_epoch=0": ["trainer.check_val_every_n_epoch=0", "1 or more"],
    "gradient_clip_val=-1": ["gradient_clip_val=-1", "null for no clipping"],
    "skip_gradient_norm=0": ["skip_gradient_norm=0", "above 0, or null to skip no steps"],
    "skip_gradient_norm=200 cuda_graph=true": ["skip_gradient_norm=200.0", "cuda_graph=false"],
    "logger.wandb.tags=lesson": ["logger.wandb.tags=lesson", "[a,b]"],
    "data_dir=": ["data_dir=", "a folder"],
    "hydra.run.dir=": ["hydra.run.dir=", "a folder"],
    "test=null": ["test=None", "test.K=100"],
    "+resume=outputs": ["+resume=outputs", "resume=FOLDER"],
    "seed=x": ["seed=x", "0 or more"],
    "test.K=0": ["test.K=0", "1 or more"],
    "test.images=1": ["test.images=1", "2 or more, or null for all"],
    "dataset.val_size=300": ["dataset.val_size=300", "1 to 299"],
    "latnt_dim=3": ["latnt_dim", "did you mean latent_dim?"],
    "trainer.max_epoch=3": ["trainer.max_epoch", "did you mean trainer.max_epochs?"],
    "optimizer.rho=0.9": ["optimizer.rho: no such key"],
    "lr=0.1": ["lr: no such key", "did you mean optimizer.lr?"],
    "epochs=3": ["did you mean trainer.max_epochs?"],
    "model=conv": ["did you mean architecture?"],
    "data=mnist": ["did you mean dataset?"],
    "ckpt_path=a.ckpt": ["did you mean resume?"],
    "dataset=null": ["dataset=null", "mnist"],
    "+trainer=null": ["+trainer=null", "the name of a choice"],
    "hydra/launcher=null": ["hydra/launcher=null", "the name of a choice"],
    "objective/schedule=linear": ["the chosen objective has no schedule", "beta, beta_tc, capacity"],
    "=x": ["=x", "expected a key"],
    "+=x": ["+=x", "expected a key"],
    "-m --cfg=job": ["-m: expected without --cfg"],
    "--info --cfg job": ["--cfg: expected without --info"],
    "--resolve": ["--resolve: expected only with --cfg"],
    "+foo=1": ["foo: no such key"],
    "trainer.accelerator=tpuu": ["trainer", "tpuu"],
    "latent_dim": ["latent_dim"],
    "latent_dim=[": ["latent_dim"],
    "~trainer=true": ["~trainer=true", "expected the name of a choice"],
    "~trainer=[ddp]": ["~trainer=[ddp]", "expected the name of a choice"],
    "~hydra/launcher=1": ["~hydra/launcher=1", "expected the name of a choice"],
    "dataset.binarize=none": ["likelihood", "Bernoulli", "dataset.binarize=none"],
    "likelihood=gaussian likelihood.sigma=0": ["likelihood.sigma=0", "0.003 or more"],
    "likelihood=categorical likelihood.levels=1": ["likelihood.levels=1", "2 to 256"],
    "likelihood=discretized_logistic likelihood.scale=each": ["likelihood.scale=each", "'pixel' or 'shared'"],
    "architecture=conv architecture.encoder.channels=[8,0]": ["architecture.encoder.channels", "[8, 0]", "1 or more"],
    "objective=iwae objective.K=0": ["objective.K=0", "1 or more"],
    "objective=beta objective.beta=-1": ["objective.beta=-1", "0 or more"],
    "objective=beta objective/schedule=linear objective.schedule.warmup=2": ["warmup=2", "between 0 and 1"],
    "posterior=ladder": ["posterior", "architecture=ladder"],
    "architecture=ladder posterior=iaf": ["posterior=ladder", "architecture=ladder"],
    "architecture=ladder latent_dim=20": ["latent_dim=20", "a multiple of 7,"],
    "architecture=ladder architecture.encoder.groups=6": ["architecture.encoder.groups=6", "at most 5"],
    "objective=dreg posterior=iaf": ["objective=dreg", "posterior=diagonal_gaussian"],
    "likelihood=pixelcnn likelihood.context_swap=1": ["likelihood.context_swap=1", "below 1"],
    "likelihood=pixelcnn likelihood.dilations=[0]": ["likelihood.dilations", "1 or more", "[1,2]"],
    "likelihood=pixel_art likelihood.latent_dim=5": ["likelihood.latent_dim=5", "which is 3"],
    "likelihood=pixelcnn objective=autoencoder": ["likelihood", "no gradient", "objective=elbo"],
    "prior=vampprior posterior=iaf": ["prior=vampprior", "posterior=diagonal_gaussian"],
    "prior=vampprior prior.pseudo_inputs=0": ["prior.pseudo_inputs=0", "1 or more"],
    "prior=flow latent_dim=1": ["prior=flow", "latent_dim=1", "2 or more"],
    "noise=gaussian noise.sigma=-1": ["noise.sigma=-1", "0 or more"],
    "noise=masking noise.p=1": ["noise.p=1", "below 1"],
    "noise=masking noise.sigma=1": ["noise.sigma: no such key"],
    "posterior=point": ["posterior=point", "objective=autoencoder"],
    "posterior.latent_dim=5": ["posterior.latent_dim=5", "which is 3"],
    "prior.latent_dim=5": ["prior.latent_dim=5", "latent_dim"],
    "architecture.decoder.latent_dim=5": ["architecture.decoder.latent_dim=5", "latent_dim"],
    "prior=two_layers prior.hidden_size=[3,0]": ["prior.hidden_size", "1 or more"],
    "experiment=tomczak2017_vae objective/schedule=constant": ["objective", "warmup"],
    "experiment=altosaar optimizer=adam": ["optimizer", "centered", "~optimizer"],
    "ema=1": ["ema=1", "between 0 and 1, or null"],
    "ema=0": ["ema=0", "between 0 and 1, or null"],
    "patience=0": ["patience=0", "1 or more"],
    "hidden_size=[4,3] hidden_size.0=5": ["hidden_size.0=5", "expected the whole list, hidden_size=[...]"],
    "-m hidden_size=[4,3] hidden_size.0=5": ["hidden_size.0=5", "expected the whole list, hidden_size=[...]"],
    "hidden_size=[4,3] hidden_size.x=5": ["hidden_size.x: no such key"],
    "--multi lattent_dim=1,2": ["lattent_dim: no such key", "did you mean latent_dim?"],
    "hydra.mode=MULTIRUN lattent_dim=1,2": ["lattent_dim: no such key", "did you mean latent_dim?"],
    "--info defaults-tree lattent_dim=1": ["lattent_dim: no such key", "did you mean latent_dim?"],
    "likelihood=categorical_17 dataset.binarize=none": ["likelihood", "Categorical", "dataset.binarize=none"],
}


@pytest.mark.parametrize("argument", USER_ERRORS)
def test_a_user_error_is_one_line_exit_code_2_and_no_folder(argument, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, out, err = cli(*argument.split(), "logger=wandb")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    for words in USER_ERRORS[argument]:
        assert words in err
    assert not (tmp_path / "outputs").exists()


def test_a_valid_run_is_composed_by_hydra_alone(cli, monkeypatch):
    def check_keys(_overrides, **_):
        raise AssertionError("checked")

    monkeypatch.setattr("vae.training.command.check_keys", check_keys)
    assert cli("--cfg", "job")[0] == 0
    with pytest.raises(AssertionError, match="checked"):
        cli("latnt_dim=1")


def test_an_unreadable_file_of_configs_is_one_line(cli, tmp_path):
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_bytes(b"# caf\xe9\n_target_: x\n")
    code, _, err = cli("--config-dir=conf", "optimizer=mine")
    assert (code, err.count("\n")) == (2, 1)
    assert "mine.yaml: line 1" in err


def test_a_rejected_run_leaves_existing_files_alone(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    assert cli("latent_dim=0", "hydra.run.dir=mine")[0] == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_a_one_line_error(cli, tmp_path):
    (tmp_path / "outputs").write_text("a file")
    code, _, err = cli()
    assert (code, err.count("\n")) == (2, 1)
    assert "outputs" in err


SWEEP_ERRORS = {
    "latnt_dim=2,3": ["latnt_dim", "did you mean latent_dim?"],
    "dataset=mnist,foo": ["dataset=foo", "mnist"],
    "data_dir=a,b": ["data_dir=a,b", "same place"],
    "logger.wandb.save_dir=a,b": ["logger.wandb.save_dir=a,b", "same place"],
    "prior=vampprior,flow prior.pseudo_inputs=20": ["prior.pseudo_inputs: prior=flow has no such key"],
    "search=mnist hydra.sweeper.n_trials=0": ["hydra.sweeper.n_trials=0", "1 or more"],
    "search=mnist hydra.sweeper.direction=up": ["hydra.sweeper.direction=up", "'maximize'"],
    "hydra/launcher=joblib hydra.launcher.n_jobs=0": ["hydra.launcher.n_jobs=0", "-1 for one per CPU"],
    "hydra/launcher=submitit_slurm": ["hydra/launcher=submitit_slurm", "no srun"],
    "hydra.sweep.dir=": ["hydra.sweep.dir=", "a folder"],
}


@pytest.mark.parametrize("argument", SWEEP_ERRORS)
def test_a_sweep_with_an_invalid_argument_does_not_start(argument, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    code, _, err = cli("-m", *argument.split())
    assert code == 2
    assert err.count("\n") == 1
    for words in SWEEP_ERRORS[argument]:
        assert words in err
    assert not (tmp_path / "outputs").exists()


def test_help_shows_the_keys_and_choices_of_the_project(cli):
    code, out, _ = cli("--help", defaults=())
    assert code == 0
    for word in [
        "latent_dim=20",
        "hidden_size=500",
        "activation=tanh",
        "resume=",
        "likelihood: auto, bernoulli, cat",
        "-m",
    ]:
        assert word in out
    assert "Powered by Hydra" not in out


def test_shell_completion_of_choices_and_keys(cli, monkeypatch):
    for typed, expected in (
        ("optimizer=", [f"optimizer={name}" for name in GROUPS["optimizer"]]),
        ("latent_d", ["latent_dim="]),
    ):
        monkeypatch.setenv("COMP_LINE", f"python train.py {typed}")
        code, out, _ = cli("-sc", "query=bash", defaults=())
        assert code == 0
        assert out.split() == expected


FLAGS = [["--help"], ["--cfg", "job"], ["-sc", "query=bash"], ["latent_dim=0"]]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_commands_without_training_do_not_import_torch(flags, tmp_path):
    script = f"""
import runpy, sys
sys.argv = ["train.py", *{flags!r}]
try: runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
except SystemExit: pass
sys.exit("torch" in sys.modules)
"""
    env = {"PYTHONPATH": str(ROOT), "COMP_LINE": "python train.py data"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, env=env)
    assert done.returncode == 0


def test_run_name_contains_the_overrides_that_change_the_config():
    overrides = [
        "latent_dim=2",
        "seed=0",
        "dataset=mnist",
        "optimizer=adadelta",
        "optimizer.rho=0.9",
        "logger=csv",
        "data_dir=x",
    ]
    assert run_name(overrides) == "latent_dim=2 optimizer=adadelta optimizer.rho=0.9"
    assert run_name([]) == run_name(["latent_dim=20"]) == "defaults"


def test_folder_name_is_unique_and_of_bounded_length():
    assert folder_name("latent_dim=2,optimizer/schedule=constant") == "latent_dim=2,optimizer.schedule=constant"
    long = [folder_name(f"{'a=1,' * 100}b={b}") for b in range(2)]
    assert len(set(long)) == 2
    assert len({folder_name("dataset.path=a/b"), folder_name("dataset.path=a.b")}) == 2
    assert folder_name("") == "defaults"
    assert max(map(len, long)) < 200


def test_yaml_files_are_valid_and_end_with_a_newline():
    for path in [*CONF.rglob("*.yaml"), *Path(ROOT).glob(".*.yaml")]:
        assert path.read_text().endswith("\n")
        yaml.safe_load(path.read_text())
    assert OmegaConf.load(CONF / "config.yaml").defaults[0] == "_self_"

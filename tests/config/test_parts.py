"""Ranges of keys belong to the classes that have them."""

import inspect
from importlib import import_module

import pytest
from hydra import compose
from omegaconf import OmegaConf

from vae.config.command_line import initialize_conf
from vae.config.schema import validate
from vae.config.section import Section
from vae.errors import UserError

MODELS = [model for model in Section.descendants() if model.target]


def config(*lines):
    with initialize_conf():
        return compose("config", list(lines))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.target)
def test_the_fields_of_a_class_are_arguments_of_its_constructor(model):
    module, _, name = model.target.rpartition(".")
    classes = [cls for cls in getattr(import_module(module), name).__mro__ if "__init__" in vars(cls)]
    arguments = {argument for cls in classes for argument in inspect.signature(cls).parameters}
    own = set(model.__annotations__) - {"schedule"}
    assert own <= arguments
    assert own


@pytest.mark.parametrize(
    ("group", "key", "value", "own"),
    [
        ("likelihood", "scale", 0.1, "vae.model.likelihoods.DiscretizedLogistic"),
        ("prior", "mean", -0.5, "vae.model.priors.VampPrior"),
        ("architecture.encoder", "channels", 32, "vae.model.networks.ConvEncoder"),
        ("objective", "beta", -1.0, "vae.model.objectives.Beta"),
        ("objective.schedule", "warmup", 3, "vae.training.schedules.Linear"),
        ("dataset", "size", "small", "datamodules.folder.Folder"),
    ],
)
@pytest.mark.parametrize("other", ["my_parts.Mine", "vae.model.mine.Mine"])
def test_a_class_with_a_key_of_the_same_name_has_its_own_range(group, key, value, own, other):
    cfg = config()
    for target, refused in ((other, False), (own, True)):
        OmegaConf.update(cfg, group, {"_target_": target, key: value}, force_add=True)
        if refused:
            with pytest.raises(UserError, match=rf"^{group}\.\w+(={value}: expected|: missing)"):
                validate(cfg)
        else:
            validate(cfg)


def test_what_all_classes_of_a_group_have_is_checked_for_every_class():
    cfg = config()
    OmegaConf.update(cfg, "prior", {"_target_": "my_parts.Mine", "latent_dim": 0}, force_add=True)
    with pytest.raises(UserError, match=r"^prior\.latent_dim=0: expected a whole number, 1 or more"):
        validate(cfg)

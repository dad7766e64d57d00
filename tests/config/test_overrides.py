"""What typed values mean: numbers, texts and lists."""

from typing import Any

import pytest
from pydantic import BaseModel

from vae.config.command_line import parse_arguments
from vae.config.override_checks import check_keys
from vae.config.overrides import read_arguments
from vae.errors import UserError


def test_a_sweep_over_datasets_may_set_a_key_that_all_of_them_have():
    check_keys(["dataset=digits,frey", "dataset.test_size=100"], multirun=True)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("dataset.path=2024", "dataset.path='2024'"),
        ("dataset.path=true", "dataset.path='true'"),
        ("dataset.path=pictures", "dataset.path=pictures"),
        ("+dataset.path=1e5,b", "+dataset.path='1e5',b"),
        ("logger.wandb.tags=[2024,a]", "logger.wandb.tags=['2024',a]"),
        ("logger.wandb.group=null", "logger.wandb.group=null"),
        ("hydra.run.dir=1e5", "hydra.run.dir='1e5'"),
        ("latent_dim=20", "latent_dim=20"),
        ("dataset.path='2 024'", "dataset.path='2 024'"),
    ],
)
def test_a_number_is_a_text_where_a_text_is_meant(typed, read):
    assert read_arguments([typed]) == [read]
    assert "experiment" not in str(read_arguments(["experiment=null", "search=null"]))


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "1e-1": 0.1,
        "3": 3,
        "-.5": -0.5,
        "007": "007",
        "no": "no",
        "2024-01-01": "2024-01-01",
        "1:30": "1:30",
        "true": True,
        "null": None,
        "[1,a,label:8]": [1, "a", "label:8"],
    }.items(),
)
def test_values_of_the_other_commands(text, value):
    class Arguments(BaseModel):
        key: Any

    assert parse_arguments(Arguments, [f"key={text}"]).key == value
    with pytest.raises(UserError, match="cannot be parsed"):
        parse_arguments(Arguments, ["key=!!timestamp x"])

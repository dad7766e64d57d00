"""Compare the runs of a W&B project: python -m vae.dashboard project=vae [entity=...].

Creates a saved view in the project's workspace and prints its URL. The view shows the curves of all runs over steps and
over images seen, log p(x) against latent_dim, hidden_size and activation, pictures, and the differences between runs.
"""

import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from vae.config.command_line import parse_arguments, run_command
from vae.errors import UserError
from vae.terminal import show
from vae.tracking.wandb_login import exit_now, wandb_api

CURVES = {"ELBO": "elbo", "KL": "kl", "log likelihood": "log_likelihood"}
SHAPE = ("latent_dim", "hidden_size", "activation")
PICTURES = ("samples", "mixture_samples", "reconstructions", "val_reconstructions", "fusions", "latents")
MAX_RUNS = 100  # in one panel


class Arguments(BaseModel, strict=True, extra="forbid"):
    project: str = Field(min_length=1, description="the name of a W&B project")
    entity: str = Field("", description="a W&B user or team")


def sections() -> list[Any]:
    """Return the sections of the view, from top to bottom."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def section(name: str, panels: Sequence[Any], columns: int = 3) -> Any:
        layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
        return ws.Section(name, list(panels), is_open=True, layout_settings=layout)

    def curves(axis: str) -> list[Any]:
        return [
            wr.LinePlot(title=title, x=axis, y=[f"train/{curve}", f"val/{curve}"], max_runs_to_show=MAX_RUNS)
            for title, curve in CURVES.items()
        ]

    columns = [wr.Config(key) for key in SHAPE] + [wr.SummaryMetric("test/log_px")]
    parallel = wr.ParallelCoordinatesPlot([wr.ParallelCoordinatesPlotColumn(column) for column in columns])
    return [
        section("Curves over steps", curves("trainer/global_step")),
        section("Curves over images seen", curves("images_seen")),
        section("Shape and log p(x)", [parallel], columns=1),
        section("Pictures", [wr.MediaBrowser(title=key, media_keys=[key], num_columns=3) for key in PICTURES]),
        section("Differences", [wr.RunComparer(diff_only="split")], columns=1),
    ]


def dashboard(project: str, entity: str) -> str:
    """Save the view and return its URL. Raises UserError without wandb-workspaces or if the server cannot be used."""
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError("vae.dashboard needs wandb-workspaces: pip install wandb-workspaces") from None
    panels, settings = sections(), ws.WorkspaceSettings(max_runs=MAX_RUNS)
    with wandb_api() as api:
        owner = entity or os.environ.get("WANDB_ENTITY") or api.default_entity
        if not owner:
            raise UserError("entity=: expected the W&B user or team that owns the project")
        return ws.Workspace(owner, project, "VAE", panels, settings).save().url


def main(argv: Sequence[str]) -> None:
    given = parse_arguments(Arguments, argv)
    show(dashboard(given.project, given.entity))


def cli() -> int:
    return run_command(main, __doc__, "stopped")


if __name__ == "__main__":
    exit_now(cli())

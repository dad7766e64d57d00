"""Use from Python: train, sweep, load and load_runs return runs. Nothing here imports torch before it is needed."""

from vae.api.launch import sweep, train
from vae.api.run import Run, load
from vae.api.runs import Runs, load_runs
from vae.errors import UserError

__all__ = ["Run", "Runs", "UserError", "load", "load_runs", "sweep", "train"]

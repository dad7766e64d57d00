"""Evaluate a run with more samples: python -m vae.evaluate run=outputs/... [K=5000] [images=10000] [compile=auto].

Estimates log p(x), rate (the KL) and distortion (-E_q[log p(x|z)]) with K importance samples per image, on all test
images or the first `images`. Writes the means to the run's summary.json and to its W&B run, and the values of each
image to scores_K<K>.npz in the run's folder. After an interruption, or with more images, the same command continues
from that file. With compile=true the sampler is compiled: this takes some seconds, and then each image takes less time.
compile=auto does this on a CPU if at least ten million samples remain to be drawn. dataset.path= says where the images
of the run are now.
"""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.api.run import Run, load
from vae.config.command_line import parse_arguments, run_command
from vae.config.section import Compile, PositiveInt
from vae.errors import UserError
from vae.runs.run_lock import lock_run
from vae.terminal import PrintableFormatter


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field(description="the folder of a finished run")
    trust: bool = False
    config_dir: str = ""
    data_path: str = Field("", alias="dataset.path", description="where the images of the run are now")
    K: PositiveInt = 5000
    images: int | None = Field(None, ge=2, description="a whole number, 2 or more, or null for all test images")
    compile: Compile = "auto"


def evaluate(
    folder: Path,
    K: int,
    images: int | None,
    compiles: Compile,
    trust: bool = False,
    config_dir: str = "",
    data_path: str = "",
) -> dict[str, float]:
    """Evaluate a run and return the new entries of its summary.json.

    Raises UserError if `folder` is not a finished run, if another process works in it, or if its model has no bound on
    log p(x).
    """
    load(folder, trust, config_dir, data_path)  # before the lock, which writes to the folder
    with lock_run(folder, "run"):
        return _evaluate(load(folder, trust, config_dir, data_path), K, images, compiles)


def _evaluate(run: Run, K: int, images: int | None, compiles: Compile) -> dict[str, float]:
    """Evaluate a run whose folder is locked."""
    folder, cfg = run.folder, run.config
    from vae.evaluate.scores import cached_scores  # only now is torch imported
    from vae.model.estimator import summarize
    from vae.tracking.build import build_loggers
    from vae.tracking.wandb_run import finish_wandb
    from vae.training.experiment import write_summary
    from vae.training.run_data import fingerprint

    x, y = run.data.x("test"), run.data.y("test")
    if images is not None and images > len(x):
        raise UserError(f"images={images}: expected 2 to {len(x)}, or null for all")
    if not run.module.has_elbo:
        raise UserError(f"run={folder}: its objective is not a bound on log p(x), so there is nothing to evaluate")
    weights = hashlib.sha256((folder / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    source = f"{weights} {fingerprint(run.data.images['test'], run.data.label_index('test'))}"
    n = images or len(x)
    scores = cached_scores(run.vae, x, n, K, cfg.seed, folder / f"scores_K{K}.npz", source, compiles, *y)
    means = summarize(scores.log_px, run.vae, x[0].numel())
    means |= {"rate": scores.rate.mean().item(), "distortion": scores.distortion.mean().item(), "images": n}
    results = {f"test/{name}_K{K}": value for name, value in means.items()}
    write_summary(run.summary | results, folder)
    if (folder / "wandb_id").exists():
        for logger in build_loggers(cfg, folder, ["wandb"]):
            logger.log_metrics(results)
        finish_wandb(0)
    return results


def main(argv: Sequence[str]) -> None:
    given = parse_arguments(Arguments, argv)
    results = evaluate(
        Path(given.run), given.K, given.images, given.compile, given.trust, given.config_dir, given.data_path
    )
    for name, value in results.items():
        shown = f"{value:>12.2f}" if isinstance(value, float) else f"{value:>9}"
        print(f"  {name.removeprefix('test/'):<24}{shown}")


def cli() -> int:
    return run_command(main, __doc__, "stopped; run the same command again to continue")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.root.handlers[0].setFormatter(PrintableFormatter())
    sys.exit(cli())

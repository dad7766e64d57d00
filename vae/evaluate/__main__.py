"""Score a run with more samples: python -m vae.evaluate run=outputs/... [K=5000] [images=10000] [compile=auto].

Of test images (all of them unless said), log p(x) by K importance samples each, rate and distortion. The means go to
the run's summary.json and to its W&B run, the values of each image to scores_K<K>.npz in its folder. Cut off, or asked
for more images, the same command goes on from what is there. With compile=true the draws are one compiled function:
it takes some seconds to make, and each image then less time. That is so by itself, with auto, for ten million draws or
more on a CPU.
"""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.config.command_line import arguments, command
from vae.config.schema import Compile, Count
from vae.errors import UserError
from vae.runs.run_folder import finished


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field(description="the folder of a finished run")
    K: Count = 5000
    images: int | None = Field(None, ge=2, description="a whole number, 2 or more, or null for all test images")
    compile: Compile = "auto"


def evaluate(folder: Path, K: int, images: int | None, compiles: Compile) -> dict[str, float]:
    """What was found, by the names it has in summary.json; raises UserError for what cannot be."""
    cfg, before = finished(folder)
    from vae.evaluate.scores import cached_scores  # only now is torch imported
    from vae.model.estimator import summary
    from vae.tracking.loggers import finish
    from vae.training.experiment import build_logger, load_dataset, load_trained, write_summary

    data = load_dataset(cfg)
    x = data.x("test")
    if images is not None and images > len(x):
        raise UserError(f"images={images}: expected 2 to {len(x)}, or null for all")
    module = load_trained(cfg, data.shape, folder)
    if not module.has_elbo:
        raise UserError(f"run={folder}: what it was trained for bounds no log p(x), so there is nothing to evaluate")
    weights = hashlib.sha256((folder / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    n = images or len(x)
    scores = cached_scores(module.vae, x, n, K, cfg.seed, folder / f"scores_K{K}.npz", weights, compiles)
    means = summary(scores.log_px, module.vae, x[0].numel())
    means |= {"rate": scores.rate.mean().item(), "distortion": scores.distortion.mean().item(), "images": n}
    found = {f"test/{name}_K{K}": value for name, value in means.items()}
    write_summary(before | found, folder)
    if (folder / "wandb_id").exists():
        for logger in build_logger(cfg, folder):
            logger.log_metrics(found)
        finish(0)
    return found


def main(typed: Sequence[str]) -> None:
    given = arguments(Arguments, typed)
    for name, value in evaluate(Path(given.run), given.K, given.images, given.compile).items():
        shown = f"{value:>12.2f}" if isinstance(value, float) else f"{value:>9}"
        print(f"  {name.removeprefix('test/'):<24}{shown}")


def cli() -> int:
    return command(main, __doc__, "stopped; the same command goes on")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(cli())

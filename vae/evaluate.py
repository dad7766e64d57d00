"""Score a finished run with more samples: python -m vae.evaluate run=outputs/... [K=5000] [images=10000]."""

import json
import logging
import sys
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field

from vae.config import Count, UserError, arguments, one_line, validate


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field(description="the folder of a finished run")
    K: Count = 5000
    images: int | None = Field(None, ge=2, description="a whole number, 2 or more, or null for all test images")


def config_of(folder: Path) -> DictConfig:
    """The config of a finished run; UserError if it is none."""
    for needed in ("summary.json", ".hydra/config.yaml", "checkpoints/best.ckpt"):
        if not (folder / needed).is_file():
            raise UserError(f"run={folder}: expected the folder of a finished run; there is no {needed} in it")
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(cfg, DictConfig)
    validate(cfg)
    return cfg


def evaluate(folder: Path, K: int, images: int | None) -> dict[str, float]:
    """log p(x), rate and distortion of test images by K importance samples each, with the weights of the best epoch.

    The values of each image are kept in <folder>/scores_K<K>.npz: the same call again, or one for more images, goes on
    from there. The means go to summary.json and to the W&B run.
    """
    cfg = config_of(folder)
    from vae.estimator import kept_scores, summary  # only now is torch imported
    from vae.experiment import load, restored, tracker, write_summary
    from vae.loggers import finish

    data = load(cfg)
    there = len(data.images["test"].pixels)
    if images is not None and images > there:
        raise UserError(f"images={images}: expected 2 to {there}, or null for all")
    module = restored(cfg, data.shape, folder)
    if not module.bounds:
        raise UserError(f"run={folder}: what it was trained for bounds no log p(x), so there is nothing to evaluate")
    n = images or there
    scores = kept_scores(module.vae, lambda rows: data.x("test", rows), n, K, cfg.seed, folder / f"scores_K{K}.npz")
    means = summary(scores.log_px, module.vae, data.mean_image().numel())
    means |= {"rate": scores.rate.mean().item(), "distortion": scores.distortion.mean().item(), "images": n}
    found = {f"test/{name}_K{K}": value for name, value in means.items()}
    write_summary(json.loads((folder / "summary.json").read_text()) | found, folder)
    if (folder / "wandb_id").exists():
        for logger in tracker(cfg, folder):
            logger.log_metrics(found)
        finish(0)
    return found


def cli() -> int:
    try:
        given = arguments(Arguments, sys.argv[1:])
        found = evaluate(Path(given.run), given.K, given.images)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    for name, value in found.items():
        print(f"  {name.removeprefix('test/'):<24}{value:>12,.2f}".removesuffix(".00"))
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(cli())

"""Measure the time of training and of pictures with each model part: python benchmarks/costs.py.

Training, docs/tables/costs.md: in each group, the first row is the network that the other rows are compared with. Each
figure is the median of 4 to 11 intervals of 10 steps; start-up, compilation and the first 10 steps are not counted.
Pictures, docs/tables/pictures.md: each figure is the median of 7 rounds, with untrained weights.
"""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from doc_tables import describe_machine, markdown_row, markdown_table, write_times
from hydra import compose

from vae.runs.run_folder import read_metrics

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
STEPS = 10  # of an interval
MIN_INTERVALS, MAX_INTERVALS = 5, 12  # with the first, which is not counted
MAX_SECONDS = 5  # of all intervals after the first; longer only for MIN_INTERVALS
GROUPS = [
    [
        "",
        "architecture=conv",
        "likelihood=gaussian dataset.binarize=none",
        "likelihood=discretized_logistic dataset.binarize=none",
    ],
    ["experiment=tomczak2017_vae", "prior=mixture", "prior=flow", "prior=vampprior", "posterior=iaf"],
    [
        "experiment=burda2015_vae",
        "objective=iwae objective.K=5",
        "objective=dreg objective.K=5",
        "objective=iwae objective.K=50",
        "prior=two_layers latent_dim=100",
    ],
    ["batch_size=50", "likelihood=pixelcnn"],
    [
        "dataset=pokemon objective=elbo",
        "likelihood=discretized_logistic",
        "likelihood=shades",
        "likelihood=pixelcnn_logistic",
    ],
]
PICTURES = {  # arguments of train.py, and the shape of an image
    "": (1, 28, 28),
    "likelihood=pixelcnn": (1, 28, 28),
    "likelihood=pixelcnn_logistic": (1, 28, 28),
    "dataset=pokemon likelihood=shades": (3, 48, 48),
    "dataset=pokemon likelihood=pixelcnn_logistic": (3, 48, 48),
    "dataset=pokemon": (3, 48, 48),
}
HEADER = [
    "`python train.py`",
    "us per image, compile=false",
    "relative to the group's first row",
    "us per image, compile=true",
    "relative to compile=false",
]


def seconds_per_image(*arguments: str) -> float:
    """Run train.py with these arguments until enough is measured; return the median training time per image."""
    run = OUT / "cost"
    shutil.rmtree(run, ignore_errors=True)
    keys = [f"trainer.max_steps={MAX_INTERVALS * STEPS}", f"log_every_n_steps={STEPS}", "logger=none"]
    command = [sys.executable, "train.py", *arguments, *keys, f"hydra.run.dir={run}"]
    rows: list[dict[str, float]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        while not is_enough(rows):
            ended = training.poll() is not None
            rows = [row for row in read_metrics(run / "metrics.csv") if "images_per_second" in row]
            if ended and not is_enough(rows):
                raise subprocess.CalledProcessError(training.returncode, command)
            time.sleep(0.1)
        training.kill()
    return 1 / statistics.median(row["images_per_second"] for row in rows[1:])


def is_enough(rows: list[dict[str, float]]) -> bool:
    """Return whether enough intervals were measured, given the metrics of each."""
    if len(rows) < MIN_INTERVALS:
        return False
    return len(rows) >= MAX_INTERVALS or rows[-1]["seconds"] - rows[0]["seconds"] > MAX_SECONDS


def seconds_per_picture(line: str, shape: tuple[int, int, int], n: int) -> float:
    """Return the time per picture when n latents are decoded together."""
    import torch

    from vae.config.command_line import initialize_conf
    from vae.training.build import build

    with initialize_conf():
        vae = build(compose("config", line.split()), shape).vae.eval()
    z, seconds = torch.randn(n, vae.prior.latent_dim), []
    with torch.no_grad():
        for _ in range(8):
            start = time.perf_counter()
            vae.decode(z)
            seconds.append((time.perf_counter() - start) / n)
    return statistics.median(seconds[1:])


def main() -> None:
    rows = [
        [
            f"`{line}`" if line else "the default",
            *(f"{1e3 * seconds_per_picture(line, shape, n):.2f}" for n in (1, 100)),
        ]
        for line, shape in PICTURES.items()
    ]
    header = ["`python train.py`", "ms for one picture", "ms per picture of 100"]
    print(write_times("pictures", markdown_table(header, rows), describe_machine()), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for base, *changes in GROUPS:
        reference = None
        for line in (base, *(f"{base} {change}".strip() for change in changes)):
            eager, compiled = (seconds_per_image(*line.split(), f"compile={value}") for value in ("false", "true"))
            reference = reference or eager
            rows.append(
                [
                    f"`{line}`" if line else "the default",
                    f"{1e6 * eager:.0f}",
                    f"{eager / reference:.1f}",
                    f"{1e6 * compiled:.0f}",
                    f"{compiled / eager:.2f}",
                ]
            )
            print(markdown_row(rows[-1]), flush=True)
    print(write_times("costs", markdown_table(HEADER, rows), describe_machine()))


if __name__ == "__main__":
    main()

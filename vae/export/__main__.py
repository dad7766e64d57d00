"""Export a finished run to ONNX and safetensors: python -m vae.export [run=outputs/...].

Without run=, the newest finished run in outputs/ is exported. The files are written to export/ in the folder of the
run: encoder.onnx (image to latent), decoder.onnx (latent to picture), weights.safetensors, and export.json, which
describes them. They can be used with onnxruntime alone, without torch, Lightning or Hydra. For an autoregressive
likelihood, decoder.onnx returns h instead of a picture, and pixels.onnx maps an image and h to the parameters of each
pixel. The outputs of the ONNX files are compared with those of torch, and nothing is written if they differ. With
conditional=true, y is an input too: the one-hot label, with a 1 at its place in the list `labels` of export.json.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from vae.api.run import Run, load
from vae.config.command_line import parse_arguments, run_command
from vae.errors import UserError
from vae.runs.atomic_files import atomic_directory
from vae.terminal import show

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae.model.autoregressive import AutoregressiveLikelihood

TOLERANCE = 1e-4  # largest difference from torch: absolute for values up to 1, relative for larger ones
OPSET = 20  # version of the ONNX operators
TRACE_BATCH = 2
TEST_BATCH = 7  # differs from TRACE_BATCH, which tests that the batch size is free


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    trust: bool = False
    config_dir: str = ""


def write_onnx(net: "nn.Module", inputs: "Sequence[Tensor]", names: Sequence[str], file: Path) -> float:
    """Write a module as ONNX with a free batch size. Return the largest difference from torch on `inputs`.

    Each input is (N, ...). `names` are the names of the inputs, then those of the outputs. Raises UserError if the
    module cannot be converted, or if the difference exceeds TOLERANCE.
    """
    import onnxruntime
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    batch = ({0: torch.export.Dim("batch")},) * len(inputs)
    warnings.filterwarnings("ignore", "# The axis name: batch will not be used")  # all inputs share it
    try:
        torch.onnx.export(
            net,
            tuple(x[:TRACE_BATCH] for x in inputs),
            file,
            input_names=names[: len(inputs)],
            output_names=names[len(inputs) :],
            dynamic_shapes=batch,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=False)}
        outputs = onnxruntime.InferenceSession(file).run(None, arrays)
    except Exception as error:  # noqa: BLE001 - the exporter and the runtime raise many types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.stem}: cannot be converted to ONNX: {type(error).__name__}: {reason}") from None
    with torch.inference_mode():
        expected = [output.numpy() for output in net(*inputs)]
    difference = max(float((abs(a - b) / abs(b).clip(1)).max()) for a, b in zip(outputs, expected, strict=True))
    if not difference <= TOLERANCE:  # also for NaN
        raise UserError(
            f"{file.stem}: ONNX and torch differ by {difference:.2g}, more than {TOLERANCE:g}; nothing was written"
        )
    return difference


def describe(run: Run, shape: Sequence[int], log_var: bool) -> dict[str, Any]:
    """Describe the files of an export: the run, its images of `shape` (C, H, W), inputs, outputs and versions."""
    import onnx
    import onnxruntime
    import torch

    cfg, choices = run.config, run.choices
    groups = ("dataset", "architecture", "likelihood", "posterior", "prior", "objective")
    code, image, labels = ["batch", cfg.latent_dim], ["batch", *shape], run.about_images.labels
    y = {"y": {"shape": ["batch", len(labels)]}} if labels else {}
    return {
        "run": run.folder.resolve().name,
        **{group: choices.get(group) for group in groups},
        "shape": list(shape),
        "latent_dim": cfg.latent_dim,
        **({"labels": labels} if labels else {}),
        "binarize": cfg.dataset.binarize,
        "weights": "weights.safetensors",
        "encoder": {
            "file": "encoder.onnx",
            "inputs": {"x": {"shape": image, "range": [0, 1]}, **y},
            "outputs": {name: {"shape": code} for name in ("mean", "log_var")[: 1 + log_var]},
        },
        "decoder": {
            "file": "decoder.onnx",
            "inputs": {"z": {"shape": code}, **y},
            "outputs": {
                "picture": {"shape": image, "range": [0, 1]},
                "h": {"shape": ["batch", "h_channels", *shape[1:]]},
            },
        },
        "versions": {package.__name__: package.__version__ for package in (torch, onnx, onnxruntime)}
        | {"opset": OPSET},
    }


def describe_pixels(likelihood: "AutoregressiveLikelihood", description: dict[str, Any]) -> dict[str, Any]:
    """Describe pixels.onnx, given the description of the other files."""
    from vae.model.pixel_art import PixelArt

    channels, height, width = description["shape"]
    inputs = {"x": description["encoder"]["inputs"]["x"], "h": description["decoder"]["outputs"]["h"]}
    outputs = {"outputs": {"shape": ["batch", likelihood.outputs_per_pixel(channels), height, width]}}
    if isinstance(likelihood, PixelArt):
        outputs |= {name: {"shape": ["batch", likelihood.K, channels]} for name in ("colours", "log_scales")}
    return {"file": "pixels.onnx", "inputs": inputs, "outputs": outputs}


def export(run: Run) -> dict[str, Any]:
    """Export a run. Return the contents of export.json.

    Raises UserError if a package is missing or the model cannot be exported.
    """
    cfg = run.config
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(f"vae.export needs {error.name}: pip install onnx onnxruntime onnxscript safetensors") from None
    import torch

    from vae.export.onnx_modules import Decoder, Encoder, PixelParameters
    from vae.model.autoregressive import AutoregressiveLikelihood
    from vae.model.sampling import labels_in_turn

    shape, vae = run.about_images.shape, run.vae.cpu()
    encoder, decoder = Encoder(vae, cfg.latent_dim), Decoder(vae)
    rng = torch.Generator().manual_seed(0)
    x, z = torch.rand(TEST_BATCH, *shape, generator=rng), torch.randn(TEST_BATCH, cfg.latent_dim, generator=rng)
    y = labels_in_turn(len(run.about_images.labels), TEST_BATCH)
    description = describe(run, shape, encoder.has_log_var)
    modules: dict[str, tuple[nn.Module, list[Tensor]]] = {"encoder": (encoder, [x, *y]), "decoder": (decoder, [z, *y])}
    if isinstance(vae.likelihood, AutoregressiveLikelihood):
        with torch.inference_mode():
            modules["pixels"] = PixelParameters(vae.likelihood), [x, vae.decoder(z, *y)]
        del description["decoder"]["outputs"]["picture"]
        description["pixels"] = describe_pixels(vae.likelihood, description)
    with atomic_directory(run.folder / "export") as part:
        for name, (net, inputs) in modules.items():
            names = [*description[name]["inputs"], *description[name]["outputs"]]
            description[name]["largest_difference_from_torch"] = write_onnx(net, inputs, names, part / f"{name}.onnx")
        weights = {name: value.contiguous() for name, value in vae.state_dict().items()}
        (part / "weights.safetensors").write_bytes(save(weights))
        (part / "export.json").write_text(json.dumps(description | {"test": run.summary}, indent=2) + "\n")
    return description


def main(typed: Sequence[str]) -> None:
    given = parse_arguments(Arguments, typed)
    run = load(given.run, given.trust, given.config_dir)
    description = export(run)
    for model in (description[name] for name in ("encoder", "decoder", "pixels") if name in description):
        path = os.path.relpath(run.folder / "export" / model["file"])
        signature = f"{', '.join(model['inputs'])} -> {', '.join(model['outputs'])}"
        show(f"{path}  {signature}  within {model['largest_difference_from_torch']:.0e} of torch")
    for file in (description["weights"], "export.json"):
        show(os.path.relpath(run.folder / "export" / file))


def cli() -> int:
    return run_command(main, __doc__, "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(cli())

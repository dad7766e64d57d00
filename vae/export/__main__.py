"""Export a finished run: python -m vae.export [run=outputs/...], of the newest run unless said.

Into the run's export/ go encoder.onnx (an image to its code), decoder.onnx (a code to its picture), weights.safetensors
and export.json, which says how to use them: that needs neither torch nor Lightning nor Hydra, only onnxruntime. Where
pixels depend on each other, decoder.onnx gives h in place of a picture, and pixels.onnx what an image and h say of each
pixel. Nothing is written that does not give what torch gives.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pydantic import BaseModel, Field

from vae import runs
from vae.command_line import arguments, command
from vae.config import UserError
from vae.evaluate import finished
from vae.files import whole

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # how far ONNX may be from torch, of a number of size 1 or less; of larger ones, that part
OPSET = 20  # of ONNX
INPUTS = 7  # random ones to compare with: other than the number that was traced


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")


def write_onnx(net: "nn.Module", inputs: "Tensor | Sequence[Tensor]", names: Sequence[str], file: Path) -> float:
    """A module, of a batch of any size, as ONNX, and how far it is from torch on `inputs`, each (N, ...).

    `names` are those of its inputs and of its outputs. UserError if it is too far or cannot be written.
    """
    import onnxruntime
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    batch = ({0: torch.export.Dim("batch")},) * len(inputs)
    try:
        torch.onnx.export(
            net,
            tuple(x[:2] for x in inputs),
            file,
            input_names=names[: len(inputs)],
            output_names=names[len(inputs) :],
            dynamic_shapes=batch,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        found = onnxruntime.InferenceSession(file).run(
            None, {name: x.numpy() for name, x in zip(names, inputs, strict=False)}
        )
    except Exception as error:  # noqa: BLE001 - whatever the exporter or the runtime has to say
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.stem}: ONNX cannot have it: {type(error).__name__}: {reason}") from None
    with torch.inference_mode():
        expected = [output.numpy() for output in net(*inputs)]
    off = max(float((abs(a - b) / abs(b).clip(1)).max()) for a, b in zip(found, expected, strict=True))
    if not off <= TOLERANCE:
        raise UserError(f"{file.stem}: ONNX and torch differ by {off:.2g}, more than {TOLERANCE:g}; nothing is written")
    return off


def about(folder: Path, cfg: DictConfig, shape: Sequence[int], log_var: bool) -> dict[str, Any]:
    """What is needed to use an export of images of `shape`, (C, H, W), apart from what was found in making it."""
    import onnx
    import onnxruntime
    import torch

    chosen = runs.read(folder).choices
    groups = ("dataset", "architecture", "likelihood", "posterior", "prior", "objective")
    code, image = ["batch", cfg.latent_dim], ["batch", *shape]
    return {
        "run": folder.resolve().name,
        **{group: chosen.get(group) for group in groups},
        "shape": list(shape),
        "latent_dim": cfg.latent_dim,
        "binarize": cfg.dataset.binarize,
        "weights": "weights.safetensors",
        "encoder": {
            "file": "encoder.onnx",
            "inputs": {"x": {"shape": image, "range": [0, 1]}},
            "outputs": {name: {"shape": code} for name in ("mean", "log_var")[: 1 + log_var]},
        },
        "decoder": {
            "file": "decoder.onnx",
            "inputs": {"z": {"shape": code}},
            "outputs": {"picture": {"shape": image, "range": [0, 1]}, "h": {"shape": ["batch", "maps", *shape[1:]]}},
        },
        "versions": {package.__name__: package.__version__ for package in (torch, onnx, onnxruntime)}
        | {"opset": OPSET},
    }


def pixels_about(likelihood: Any, described: dict[str, Any]) -> dict[str, Any]:
    """How to use pixels.onnx."""
    channels, height, width = described["shape"]
    image, h = described["encoder"]["inputs"]["x"], described["decoder"]["outputs"]["h"]
    outputs = {"outputs": {"shape": ["batch", likelihood.outputs(channels), height, width]}}
    if hasattr(likelihood, "palette"):
        outputs |= {name: {"shape": ["batch", likelihood.K, channels]} for name in ("colours", "log_scales")}
    return {"file": "pixels.onnx", "inputs": {"x": image, "h": h}, "outputs": outputs}


def export(folder: Path) -> dict[str, Any]:
    """Write the export of a run; what is in its export.json. UserError for what cannot be."""
    cfg, summary = finished(folder)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(f"vae.export needs {error.name}: pip install -e '.[export]'") from None
    import torch

    from vae.autoregressive import AutoregressiveLikelihood
    from vae.experiment import load, restored
    from vae.export.portable import Decoder, Encoder, Pixels

    data = load(cfg)
    vae = restored(cfg, data.shape, folder).vae.cpu()
    encoder, decoder = Encoder(vae, cfg.latent_dim), Decoder(vae)
    rng = torch.Generator().manual_seed(0)
    x, z = torch.rand(INPUTS, *data.shape, generator=rng), torch.randn(INPUTS, cfg.latent_dim, generator=rng)
    described = about(folder, cfg, data.shape, encoder.has_log_var)
    nets: list[tuple[str, torch.nn.Module, Any]] = [("encoder", encoder, x), ("decoder", decoder, z)]
    if isinstance(vae.likelihood, AutoregressiveLikelihood):
        with torch.inference_mode():
            nets.append(("pixels", Pixels(vae.likelihood), (x, vae.decoder(z))))
        del described["decoder"]["outputs"]["picture"]
        described["pixels"] = pixels_about(vae.likelihood, described)
    with whole(folder / "export") as part:
        for name, net, inputs in nets:
            names = [*described[name]["inputs"], *described[name]["outputs"]]
            described[name]["largest_difference_from_torch"] = write_onnx(net, inputs, names, part / f"{name}.onnx")
        weights = {name: value.contiguous() for name, value in vae.state_dict().items()}
        (part / "weights.safetensors").write_bytes(save(weights))
        (part / "export.json").write_text(json.dumps(described | {"test": summary}, indent=2) + "\n")
    return described


def main(typed: Sequence[str]) -> None:
    given = arguments(Arguments, typed)
    folder = Path(given.run) if given.run else runs.newest(Path("outputs"))
    found = export(folder)
    for part in (found[name] for name in ("encoder", "decoder", "pixels") if name in found):
        path = os.path.relpath(folder / "export" / part["file"])
        puts = f"{', '.join(part['inputs'])} -> {', '.join(part['outputs'])}"
        print(f"{path}  {puts}  within {part['largest_difference_from_torch']:.0e} of torch")
    for file in (found["weights"], "export.json"):
        print(os.path.relpath(folder / "export" / file))


def cli() -> int:
    return command(main, __doc__, "stopped; nothing is written")


if __name__ == "__main__":
    sys.exit(cli())

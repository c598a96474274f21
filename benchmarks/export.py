"""Every preset at full size as an ONNX file, run in onnxruntime beside PyTorch: `python benchmarks/export.py`.

Fresh weights, with noise in the transformer and the heads: fresh heads give one box to every query, and fresh offsets
are the same for all. The table goes to the screen and to a file under benchmarks/results/.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from ms_deform_attn import RESULTS, machine, table
from torch import Tensor

from ddetr import PRESETS, DeformableDETR, build_model
from ddetr.models.export import INPUTS, TensorModel, export_onnx

try:
    import onnxruntime
except ImportError as error:
    raise SystemExit('this needs onnxruntime: pip install onnxruntime "ddetr[export]"') from error

SIZES = ((200, 297), (65, 96), (97, 250), (480, 546))  # the first is what the program is traced with


def noisy_model(preset: str) -> DeformableDETR:
    torch.manual_seed(0)
    model = build_model(preset).eval()
    with torch.no_grad():
        for part in (model.encoder, model.queries, model.decoder, model.heads):
            for parameter in part.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return model


def padded_image(h: int, w: int) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[:, :, -16:] = True
    return torch.randn(1, 3, h, w).masked_fill(mask[:, None], 0), mask


def deviations(got: list[Tensor], wanted: list[Tensor], in_order: bool) -> list[str]:
    """Of logits and boxes, relative to the largest value."""
    if not in_order:  # two proposals whose scores differ by rounding may change places: to each its nearest
        pairs = torch.cdist(torch.cat(wanted, -1)[0], torch.cat(got, -1)[0])
        got = [values[:, pairs.argmin(1)] for values in got]
    return [f"{(a - b).abs().max() / b.abs().max():.0e}" for a, b in zip(got, wanted, strict=True)]


def rows(preset: str, folder: Path) -> list[list[str]]:
    model, file = noisy_model(preset), folder / f"{preset}.onnx"
    started = time.perf_counter()
    export_onnx(model, file)
    exported = f"{time.perf_counter() - started:.0f} s"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    made = []
    for h, w in SIZES:
        inputs = padded_image(h, w)
        started = time.perf_counter()
        got = session.run(None, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
        spent = time.perf_counter() - started
        with torch.no_grad():
            wanted = TensorModel(model)(*inputs)
        deviating = deviations([torch.from_numpy(values) for values in got], wanted, not model.config.two_stage)
        made.append([preset, f"{h}x{w}", *deviating, f"{spent:.2f} s", f"{file.stat().st_size / 1e6:.1f} MB", exported])
    file.unlink()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)} (default: all)")
    parser.add_argument("--output", type=Path, default=RESULTS / "export.md")
    options = parser.parse_args()
    if unknown := set(options.presets) - PRESETS.keys():
        parser.error(f"no preset {', '.join(sorted(unknown))}; there are {', '.join(PRESETS)}")
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets or PRESETS:
            made += rows(preset, Path(folder))
            print("\n".join("  ".join(row) for row in made[-len(SIZES) :]), flush=True)
    head = ["preset", "image", "logits", "boxes", "one run", "file", "exported in"]
    command = " ".join(["python benchmarks/export.py", *options.presets])
    text = (
        f"# The presets as ONNX files\n\n{machine()}, onnxruntime {onnxruntime.__version__}.\n\n"
        f"Made by `{command}`: the largest deviation of one image's logits and boxes\n"
        "from PyTorch's, relative to the largest value, and what the file costs.\n\n"
        f"{table(head, made)}"
    )
    print(text)
    options.output.write_text(text)


if __name__ == "__main__":
    main()

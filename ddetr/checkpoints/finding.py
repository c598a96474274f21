"""Where weights lie: a file, a folder, the package itself, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from .hub import download, is_hub_name

SHIPPED = ("tiny", "tiny_two_stage")
"""Names of weights that come with the package, trained on ToyCOCO; `data/weights` has a card for each."""

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""What a folder may hold its weights in, ours and transformers' alike, the first that is there counts."""


def find_weights(source: str | Path) -> Path:
    """The file that `source` stands for: a name of `SHIPPED`, a file, a folder, or a name on the hub (a str).

    Raises:
        FileNotFoundError: a folder without weights, or no such name on the hub.
        OSError: the hub cannot be reached.
    """
    if source in SHIPPED:
        return shipped_file(f"{source}.safetensors")
    path = Path(source)
    if path.is_dir():
        for name in WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"no {WEIGHT_FILES[0]} in {path}, nor {' or '.join(WEIGHT_FILES[1:])}")
    if isinstance(source, str) and not path.exists() and is_hub_name(source):
        return download(source, WEIGHT_FILES)
    return path


def shipped_file(name: str) -> Path:
    """The file `name` of `data/weights`, in a clone or in an installed package. FileNotFoundError if it is not."""
    package = Path(__file__).parents[1]
    for folder in (package / "weights", package.parent / "data" / "weights"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} did not come with this copy of ddetr: is data/weights complete?")

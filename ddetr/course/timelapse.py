"""How sampling points and boxes move while a detector learns: one fixed scene, seen by each snapshot of a run.

python -m ddetr.course.timelapse RUN --out data/weights/timelapse.npz

A run that went on from the weights of another one follows it: `--after FRAMES`, the file that was made of that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from ..checkpoints import load_pretrained, shipped_file
from ..data import DataError, ToyScene, prepare_image, toy_scene
from ..engine.checkpoint import snapshots
from ..files import replacing
from ..losses import HungarianMatcher, Target
from ..models import DeformableDETR

SCENE_SEED = 105  # six objects, none of them tiny


def look(model: DeformableDETR, scene: ToyScene) -> dict[str, np.ndarray]:
    """What `model` makes of each of the scene's N objects: the query that answers for it, and one token on it.

    `boxes` (N, 4) as (cx, cy, w, h) in [0, 1], `scores` (N,) of the right class; for the decoder's layers, `points`
    (N, layers, M, L, P, 2) as (x, y) in [0, 1] and `weights` (N, layers, M, L, P); the same as `encoder_points` and
    `encoder_weights` for the token of level 0 at the object's centre. Points and weights are float16.
    """
    trace = model.trace([prepare_image(Image.fromarray(scene.image), model.config.test_size)])
    target = scene_target(model, scene)
    logits, boxes = trace["heads.logits"][-1, 0], trace["heads.boxes"][-1, 0]
    match = HungarianMatcher(model.config)(logits[None], boxes[None], [target])[0]
    query = match.query[match.target.argsort()]
    h, w = trace.level_sizes[0]
    cells = (target.boxes[:, :2] * torch.tensor([w, h])).long()
    token = cells[:, 1] * w + cells[:, 0]
    config = model.config
    decoder = _attention(trace, "decoder", config.decoder_layers, query)
    encoder = _attention(trace, "encoder", config.encoder_layers, token)
    return {
        "boxes": boxes[query].numpy(),
        "scores": logits[query, target.labels].sigmoid().numpy(),
        "points": decoder[0], "weights": decoder[1],
        "encoder_points": encoder[0], "encoder_weights": encoder[1],
    }  # fmt: skip


def _attention(trace: Any, part: str, layers: int, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    columns = []
    for name in ("sampling_locations", "attention_weights"):
        values = [trace[f"{part}.layer{n}.{name}"][0, rows] for n in range(layers)]
        columns.append(torch.stack(values, dim=1).half().numpy())
    return columns[0], columns[1]


def scene_target(model: DeformableDETR, scene: ToyScene) -> Target:
    """The scene's N objects as the losses take them: labels of `model`, boxes (cx, cy, w, h) in [0, 1]; N may be 0.

    Crowds are left out, and categories that the model does not know.
    """
    label_of = {category["id"]: label for label, category in enumerate(model.categories)}
    objects = [a for a in scene.annotations if not a["iscrowd"] and a["category_id"] in label_of]
    height, width = scene.image.shape[:2]
    boxes = torch.tensor([a["bbox"] for a in objects]).reshape(-1, 4) / torch.tensor([width, height, width, height])
    labels = torch.tensor([label_of[a["category_id"]] for a in objects], dtype=torch.int64)
    return Target(labels, box_convert(boxes, "xywh", "cxcywh"))


def shipped_timelapse() -> dict[str, np.ndarray]:
    """The time-lapse of the run that made the shipped `tiny_two_stage` weights; `scene` is the seed of its scene."""
    with np.load(shipped_file("timelapse.npz")) as frames:
        return dict(frames)


def timelapse(run: str | Path, scene: ToyScene) -> dict[str, np.ndarray]:
    """`look` at the scene by each snapshot of a run, the first of fresh weights; with their `steps` and `minutes`.

    DataError if the run kept none.
    """
    run = Path(run)
    files = snapshots(run)
    if not files:
        raise DataError(f"no snapshots in {run}: train with --keep-every")
    frames = [look(load_pretrained(file), scene) for _, file in files]
    steps = [step for step, _ in files]
    return {
        "steps": np.array(steps),
        "minutes": np.interp(steps, *_minutes_of(run)).astype(np.float32),
        **{name: np.stack([frame[name] for frame in frames]) for name in frames[0]},
    }


def joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One time-lapse of two: `second` is of a run that started from the weights that `first` ends with."""
    rest = {name: values[1:] for name, values in second.items()}  # its first frame is the other's last
    for name in ("steps", "minutes"):
        rest[name] = rest[name] + first[name][-1]
    return {name: np.concatenate([first[name], values]) for name, values in rest.items()}


def _minutes_of(run: Path) -> tuple[Sequence[float], Sequence[float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [0, *(line["step"] for line in lines)], [0, *(line["minutes"] for line in lines)]


def main() -> None:
    """Write the time-lapse of a run as one compressed file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--scene", type=int, default=SCENE_SEED, help="seed of the toy scene; default: %(default)s")
    parser.add_argument("--after", type=Path, metavar="FRAMES", help="of the run with whose weights this one began")
    args = parser.parse_args()
    frames = timelapse(args.run, toy_scene(args.scene))
    if args.after:
        with np.load(args.after) as before:
            frames = joined({name: before[name] for name in frames}, frames)
    with replacing(args.out) as file, file.open("wb") as handle:
        np.savez_compressed(handle, scene=args.scene, **frames)
    print(f"{len(frames['steps'])} frames, {args.out.stat().st_size / 1e6:.2f} MB -> {args.out}")


if __name__ == "__main__":
    main()

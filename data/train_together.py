"""Train the two shipped models at once: one backbone and encoder, under a two-stage decoder and a one-stage decoder.

    torchrun --nproc_per_node 2 data/train_together.py --data DIR --out RUN --minutes 90 --size 240 --smallest 160
    python data/train_together.py --split RUN

The encoder is most of the work of a step, so both decoders on one memory cost little more than one. `--split` makes two
runs of it, RUN/tiny_two_stage and RUN/tiny, as if each had been trained alone: weights, snapshots, log.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr.checkpoints import ENCODER, load_into, load_pretrained, read_checkpoint, save_model
from ddetr.data import AUGMENTATIONS, CocoDetection, Resolution, coco_layout, eval_transform
from ddetr.engine import TINY_RECIPE, TrainOptions, default_recipe, distributed, train
from ddetr.engine.checkpoint import snapshots
from ddetr.files import write_json
from ddetr.models import DeformableDETR
from ddetr.models.inputs import check_targets

PREFIX = "one_stage."
PADDED = 0.25  # of the batches have images of different sizes on purpose


class Together(DeformableDETR):
    """A two-stage model with all that a one-stage model has behind the encoder; it is evaluated as the two-stage one.

    The losses of the one-stage part have names that begin with "one_stage_". In training each batch is shrunk by a
    factor drawn between `smallest` and 1, all its images alike, so that there is no more padding than without; in one
    batch of four each image has its own factor, so that the group norms learn what padding does to them.
    """

    def __init__(self, two_stage: DeformableDETR, one_stage: DeformableDETR, smallest: float = 1.0) -> None:
        super().__init__(two_stage.config)
        self.load_state_dict(two_stage.state_dict())
        self.categories = two_stage.categories
        for name in ENCODER:
            delattr(one_stage, name)
        self.one_stage = one_stage
        self.smallest = smallest

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        num_boxes: float | None = None,
    ) -> Any:
        """As `DeformableDETR.forward`."""
        if not self.training:
            return super().forward(images)
        if self.smallest < 1:
            images, targets = shrunk(images, targets, self.factors(len(images)))
        batch = self.batch_images(images)
        checked = check_targets(targets, batch.sizes, self.config.num_classes, batch.images.device)
        tokens = self.pre_transformer(batch)
        memory = self.encoder(tokens)
        losses = {}
        for prefix, model in (("", self), ("one_stage_", self.one_stage)):
            queries = model.pre_decoder(memory, tokens)
            decoded = model.decoder(queries, memory, tokens, model.heads)
            own = model.criterion(model.predict(decoded, queries, memory), checked, num_boxes)
            losses |= {prefix + name: loss for name, loss in own.items()}
        return losses

    def factors(self, images: int) -> list[float]:
        """What each image of a batch is shrunk by."""
        alike = float(torch.rand(())) >= PADDED
        drawn = torch.rand(1).expand(images) if alike else torch.rand(images)
        return (1 - (1 - self.smallest) * drawn).tolist()


def shrunk(
    images: Sequence[Tensor], targets: Any, factors: Sequence[float]
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images (3, H, W) and their targets' boxes, each made smaller by its factor."""
    small, boxes = [], []
    for image, target, factor in zip(images, targets, factors, strict=True):
        h, w = image.shape[-2:]
        size = (round(h * factor), round(w * factor))
        small.append(F.interpolate(image[None], size, mode="bilinear", antialias=True)[0])
        boxes.append(target | {"boxes": target["boxes"] * torch.tensor([size[1] / w, size[0] / h]).repeat(2)})
    return small, boxes


def run(args: argparse.Namespace) -> None:
    """Train from the weights `args` names, the shipped ones unless told otherwise."""
    two_stage = load_pretrained(args.two_stage, test_size=args.size)
    one_stage = load_pretrained(args.one_stage, test_size=args.size)
    model = Together(two_stage, one_stage, (args.smallest or args.size) / args.size)
    recipe = dataclasses.replace(default_recipe(model.config), lr=args.lr)
    options = TrainOptions(
        minutes=args.minutes, batch_size=args.batch_size, accumulate=args.accumulate, recipe=recipe, seed=args.seed,
        eval_every=args.eval_every, keep_every=args.keep_every,
    )  # fmt: skip
    resolution = Resolution.around(args.size)
    train_set, val_set = (
        CocoDetection(*coco_layout(args.data, split), transform, categories=model.categories)
        for split, transform in (
            ("train", AUGMENTATIONS[recipe.augment](resolution)),
            ("val", eval_transform(resolution)),
        )
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "settings.json", {"seed": args.seed, "images_per_step": options.images_per_step})
    train(model, train_set, options, args.out, val=val_set, resume=args.resume)


def split(run: Path) -> None:
    """Make two runs of one."""
    size = read_checkpoint(run / "model.safetensors").metadata["config"]["test_size"]
    for name in ("tiny_two_stage", "tiny"):
        model = load_pretrained(name, test_size=size)
        for file in (run / "model.safetensors", *(file for _, file in snapshots(run))):
            own = run / name / file.relative_to(run)
            own.parent.mkdir(parents=True, exist_ok=True)
            load_into(model, part(read_checkpoint(file).state, name))
            save_model(model, own)
        for file in ("settings.json", "metrics.jsonl"):
            shutil.copy(run / file, run / name / file)
        print(run / name)


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """What of `Together`'s weights is the model of that `name`."""
    if name == "tiny_two_stage":
        return {key: tensor for key, tensor in state.items() if not key.startswith(PREFIX)}
    encoder = {key: tensor for key, tensor in state.items() if key.split(".")[0] in ENCODER}
    return encoder | {key.removeprefix(PREFIX): t for key, t in state.items() if key.startswith(PREFIX)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", type=Path, metavar="RUN", help="make two runs of a finished one")
    parser.add_argument("--data", type=Path, help="ToyCOCO")
    parser.add_argument("--out", type=Path, metavar="RUN")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--size", type=int, default=208, help="shorter side of the images; default: %(default)s")
    parser.add_argument("--smallest", type=int, metavar="PX", help="shrink batches to between this and --size")
    parser.add_argument("--lr", type=float, default=TINY_RECIPE.lr, help="default: %(default)s")
    parser.add_argument("--two-stage", default="tiny_two_stage", metavar="W", help="to start from")
    parser.add_argument("--one-stage", default="tiny", metavar="W", help="to start from, but for its encoder")
    parser.add_argument("--batch-size", type=int, default=2, help="in each process; default: %(default)s")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--eval-every", type=float, default=15, help="minutes; default: %(default)s")
    parser.add_argument("--keep-every", type=float, default=10, help="minutes; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.split:
        split(args.split)
        return
    if not (args.data and args.out):
        parser.error("training needs --data and --out")
    with distributed.process_group(torch.device("cpu")):
        run(args)


if __name__ == "__main__":
    main()

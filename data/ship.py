"""Turn a training run into shipped weights: float16, with a card of how they were made and what they score.

    python data/ship.py RUN tiny_two_stage --test DIR --made-by "python -m ddetr train ..." --commit HASH --on "2 cores"

DIR holds a ToyCOCO set whose seed neither training nor tuning saw; its val split is the judge.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ddetr.checkpoints import SHIPPED, load_pretrained, save_model
from ddetr.data import CocoDetection, Resolution, coco_layout, eval_transform
from ddetr.engine import Evaluation, evaluate, format_groups, format_metrics
from ddetr.files import write_text

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=SHIPPED)
    parser.add_argument("--test", required=True, type=Path, help="ToyCOCO set to score the weights on")
    parser.add_argument("--made-by", required=True, nargs="+", help="the commands, in order")
    parser.add_argument("--commit", required=True, help="of the code that trained")
    parser.add_argument("--on", required=True, help="where it was trained: how many cores, of what")
    parser.add_argument("--note", default="", help="what else the card should say")
    args = parser.parse_args()

    file = WEIGHTS / f"{args.name}.safetensors"
    WEIGHTS.mkdir(exist_ok=True)
    save_model(load_pretrained(args.run), file, half=True)
    model = load_pretrained(file)  # what is scored is what is shipped
    transform = eval_transform(Resolution.around(model.config.test_size))
    dataset = CocoDetection(*coco_layout(args.test, "val"), transform, categories=model.categories)
    evaluation = evaluate(model, dataset)
    write_text(WEIGHTS / f"{args.name}.md", card(args, file, evaluation))
    print(format_metrics(evaluation.metrics))


def card(args: argparse.Namespace, file: Path, evaluation: Evaluation) -> str:
    """The card, as Markdown."""
    settings = json.loads((args.run / "settings.json").read_text())
    last = json.loads((args.run / "metrics.jsonl").read_text().splitlines()[-1])
    tested = json.loads((args.test / "toycoco.json").read_text())
    made_by = "\n".join(f"    {command}" for command in args.made_by)
    return f"""# {args.name}

{args.note}{" " if args.note else ""}{file.stat().st_size / 1e6:.1f} MB, float16. Made by

{made_by}

with seed {settings["seed"]}, at commit {args.commit}. The last training, on {args.on}, took {last["step"]} steps of
{settings["images_per_step"]} images in {last["minutes"]:.0f} minutes.

Scores on the {evaluation.num_images} val images of a ToyCOCO set that neither training nor tuning saw,

    python -m ddetr data toycoco --out DIR --train {tested["train"]} --val {tested["val"]} --seed {tested["seed"]}

by pycocotools:

    {format_metrics(evaluation.metrics).replace(chr(10), chr(10) + "    ")}

By category:

    {format_groups(evaluation.per_category).replace(chr(10), chr(10) + "    ")}

By size (small is below 32 x 32 pixels, large above 96 x 96):

    {format_groups(evaluation.per_size).replace(chr(10), chr(10) + "    ")}
"""


if __name__ == "__main__":
    main()

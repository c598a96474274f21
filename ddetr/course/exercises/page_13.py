"""Page 13: the bug clinic.

An answer names a suspect and is judged by its symptoms: a detector with that fault must part from a healthy one at the
same tensor as the patient does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..clinic import PATIENTS, Patient, symptom
from ..faults import FAULTS
from . import Case, Exercise, Mistake


class _Notes(NamedTuple):
    """What a wrong guess hears about this patient, and what a right one is told."""

    shows: str
    worth_knowing: str


_NOTES = (
    _Notes(
        "Here they go wrong after the very last layer: names and scores are those of what is there.",
        "DETR's boxes are (cx, cy, w, h), torchvision's and most drawing code's (x1, y1, x2, y2), COCO's files have "
        "(x, y, w, h). Four numbers do not say which they are. On the way in, ddetr refuses boxes without area.",
    ),
    _Notes(
        "Here each box sits well. What is wrong with the words beside them?",
        "COCO's ids are 1 to 90 with gaps, 80 in use. The official code has 91 outputs, one for each id; mmdetection "
        "has 80, counted from 0; a file of your own may start at 1. Mix two of them, and boxes are perfect and AP 0.",
    ),
    _Notes(
        "Here the proposals and the first decoder layer's attention are healthy; what the second looks from is not.",
        "A head corrects a box in inverse-sigmoid space (page 09). Without it, a side of 0.05 becomes sigmoid(0.05) = "
        "0.51 before anything is corrected.",
    ),
    _Notes(
        "Here every image gets the same boxes, scores and names: nothing that comes from the image arrives.",
        "Hugging Face's pixel_mask is 1 where there is image, the others' masks are True where there is padding. "
        "Inverted, all values read zero, and what is left is the queries, which are the same for every image.",
    ),
    _Notes(
        "Here an image alone is well, and in a batch it looks from the right places. What does it find on the padding?",
        "The padding's pixels are zero, its tokens are not: biases and GroupNorm make something of them. Evaluation at "
        "batch 1 never shows it.",
    ),
    _Notes(
        "Here an image alone is well, and in a batch it looks from the wrong places.",
        "References are in [0, 1] of the image, the operator wants [0, 1] of the padded map: valid_ratios are the rate "
        "of exchange (page 04). Nothing after them knows where the image ends.",
    ),
    _Notes(
        "Here a network that was trained on these pixels would be perfectly well. What are they?",
        "cv2.imread gives blue, green, red; PIL gives red, green, blue. A detector survives it, and nobody notices. "
        "Draw the tensor that goes into the network, not the file.",
    ),
    _Notes(
        "Here the tokens are healthy, and what is added to them before anybody asks is not.",
        "Two cells at one place on two levels have one sine code (page 03). The embedding is one tensor of L x C "
        "numbers, easily lost when a checkpoint's names are translated and loaded with strict=False.",
    ),
    _Notes(
        "Here values, places and weights of the first layer are healthy, and their sum is not.",
        "grid_sample's own default is False since PyTorch 1.3, and so is the operator's convention (page 06). The "
        "shift is half a cell at the border and nothing in the middle, so it hurts small maps most.",
    ),
    _Notes(
        "Here the points lie elsewhere on long images, and the harm is gone on a square one.",
        "Shapes are (h, w), points are (x, y): the normaliser is (w, h). This one's decoder is well, for boxes as "
        "references bring their own scale. Test with images that are not square.",
    ),
)


def _exercise(number: int, patient: Patient, notes: _Notes) -> Exercise:
    def cases() -> list[Case]:
        first = "the first tensor that is not as in a healthy detector"
        return [Case(f"{first}, for a scene alone", (False,)), Case(f"{first}, for two scenes in a batch", (True,))]

    def run(answer: Callable[[], Any], company: bool) -> Any:
        guess = answer()
        return guess if guess is None or guess is ... else symptom(guess, patient.weights, company)

    mistakes = [
        Mistake(lambda name=name: name, f"{fault.would_show} {notes.shows}")
        for name, fault in FAULTS.items()
        if name != patient.fault
    ]
    return Exercise(
        f"13.patient_{number}",
        f"Write patient_{number}(): no arguments -> which of the suspects it is, by name.",
        cases,
        lambda: patient.fault,
        mistakes,
        notes.worth_knowing,
        run,
    )


EXERCISES = tuple(_exercise(number, *entry) for number, entry in enumerate(zip(PATIENTS, _NOTES, strict=True), start=1))

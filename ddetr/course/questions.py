"""What people ask in public about Deformable DETR, and the heading under which a page answers it.

A heading is written as it stands on the page. An empty one belongs to a page that is not written yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Question(NamedTuple):
    """A question by its number, and where it is answered: page number -> heading on it, the fullest answer first."""

    number: int
    text: str
    answers: Mapping[int, str]


GROUPS: dict[str, tuple[Question, ...]] = {
    "Seeing it": (
        Question(
            1,
            "How do I draw the sampling points over the image, as the paper's figure 6 does?",
            {5: "The paper's figure 6"},
        ),
        Question(
            2,
            "Where do decoder and encoder look? Is there something like DETR's attention maps?",
            {
                5: "The paper's figure 6",
                7: "One token, layer by layer",
                8: "What one query sees",
                12: "Where did the bird's query look?",
                0: "Where it looks",
            },
        ),
        Question(
            3,
            "Are sampling locations the same as reference points, and how do I turn them into pixels?",
            {5: "From sampling locations to pixels"},
        ),
        Question(4, "The points of one head lie on a line and slide along it. Is that right?", {5: "Points on a line"}),
    ),
    "Masks, levels, reference points": (
        Question(
            5,
            "What are `valid_ratios`, and why divide by them only to multiply again?",
            {4: "Why divide, and then multiply?"},
        ),
        Question(
            6, "Do coordinates on padding go beyond 1, and does that do harm?", {4: "More than 1: does it matter?"}
        ),
        Question(
            7,
            "A sampling location may fall outside the map. What is read there?",
            {6: "What happens outside the map?", 5: "Outside the map"},
        ),
        Question(
            8,
            "Each level has its position encoding already: what is the level embedding for? And `level_start_index`?",
            {3: "Which level am I? The level embedding"},
        ),
        Question(
            9,
            "Reference points are (B, S, L, 2) in the encoder, (B, Q, 2) in the decoder, in one module. Why?",
            {4: "Why (B, S, L, 2) here and (B, Q, 2) there?", 8: "Then they look"},
        ),
        Question(
            10,
            "Are the decoder's reference points the same in all layers?",
            {4: "Do they change from layer to layer?", 8: "Do the reference points move?"},
        ),
        Question(11, "The query embedding is split in two. Which half is the position?", {8: "Which half is which?"}),
    ),
    "The attention module": (
        Question(
            12,
            "Why does the bias of `sampling_offsets` start as a star, one ray a head, and is it trained?",
            {5: "The star"},
        ),
        Question(13, "Why are offsets divided by (W, H), and what happens with (H, W)?", {5: "Divide by (W, H)"}),
        Question(
            14,
            "With boxes as references, why divide the offsets by the number of points and take half?",
            {5: "With a box: parts of its half sides"},
        ),
        Question(
            15,
            "Why do the attention weights come from the query alone? Where is the key?",
            {5: "How hard? A softmax without keys"},
        ),
        Question(
            16, "What does `im2col_step` do, and why is a batch of 65 refused?", {6: "im2col_step, and a batch of 65"}
        ),
        Question(
            17,
            "`align_corners` or not, half a pixel or none, [0, 1] or [-1, 1]: which is it?",
            {6: "Half a pixel: align_corners", 4: "`align_corners`, half pixels: which is right?"},
        ),
        Question(
            18,
            "Why does the original operator need CUDA, and does `grid_sample` compute the same?",
            {6: "Is grid_sample the same thing?"},
        ),
        Question(19, "What does half precision change, and where does the NaN come from?", {6: "Half precision"}),
    ),
    "Heads, refinement, two-stage": (
        Question(
            20,
            "Why does the class bias start at -4.6, and the box bias at -2?",
            {9: "Where it starts: -4.6 and -2"},
        ),
        Question(21, "Why predict an offset before the sigmoid, and not simply a box?", {9: "An offset, not a box"}),
        Question(
            22,
            "Why do the layers share one head without refinement, and have their own with it?",
            {9: "One head, or one for each layer?"},
        ),
        Question(
            23,
            "References and proposals are detached. Why, and does the encoder learn at all?",
            {9: "Who trains the encoder?"},
        ),
        Question(24, "Why are the proposals ranked by class 0 and no other?", {9: "Class 0 alone"}),
        Question(25, "Can two-stage do without refinement?", {9: "Two-stage without refinement?"}),
    ),
    "Data, matching, training": (
        Question(
            26,
            "80, 90 or 91 classes? Do labels begin at 0 or at 1?",
            {10: "80, 90 or 91 classes", 13: "80, 90 or 91 classes?", 0: "Heads: scores and boxes"},
        ),
        Question(27, "What does an image without any object teach?", {10: "An image without objects"}),
        Question(
            28,
            "The loss goes down and AP stays at 0. What now?",
            {11: "The loss falls and AP stays 0: a checklist", 13: "AP 0: what do I check, and in which order?"},
        ),
        Question(
            29,
            "Why do all images get the same boxes?",
            {11: "Every image gets the same boxes", 13: "Every image gets the same boxes: why?"},
        ),
        Question(
            30, "How do I fine-tune on classes of my own, and which weights start afresh?", {11: "Your own classes"}
        ),
        Question(
            31,
            "How few images, and how small a batch? What fits in 6 GB or on a laptop?",
            {11: "How small can it be?", 1: "A norm that does not learn"},
        ),
        Question(
            32,
            "Why is AP another one with evaluation batch 2 than with 1?",
            {3: "Does an image see its neighbour?", 2: "GroupNorm", 12: "Batch 1, batch 2"},
        ),
        Question(
            33,
            "The GIoU assertion fails, or the loss becomes NaN. Where does it begin?",
            {10: "NaN, and the GIoU assertion"},
        ),
        Question(
            34,
            "Why does the memory that a batch needs swing so much?",
            {3: "Whose size decides the number of tokens?"},
        ),
        Question(
            35,
            "Which parameters learn at a tenth of the rate, and why those?",
            {11: "Who learns slowly", 1: "Which stages learn"},
        ),
        Question(
            36,
            "What does it take to get the paper's AP: schedule, batch, hardware, hours?",
            {12: "The paper's numbers"},
        ),
    ),
}

QUESTIONS: tuple[Question, ...] = tuple(question for group in GROUPS.values() for question in group)

"""The fourteen pages, by file name and in order."""

from __future__ import annotations

SERIES = (
    "00_tour",
    "01_backbone_features",
    "02_neck",
    "03_masks_and_level_embeddings",
    "04_reference_points",
    "05_sampling_offsets",
    "06_attention_op",
    "07_encoder",
    "08_decoder_and_queries",
    "09_heads_and_refinement",
    "10_matching_and_loss",
    "11_train_coco_subset",
    "12_evaluate_and_explain",
    "13_bug_clinic",
)

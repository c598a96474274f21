"""Data sets to train on, in COCO's layout."""

from . import data_coco, data_toycoco

COMMANDS = {"toycoco": data_toycoco, "coco": data_coco}

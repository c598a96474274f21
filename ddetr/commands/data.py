"""Data sets to train on, in COCO's layout."""

from . import data_coco

COMMANDS = {"coco": data_coco}

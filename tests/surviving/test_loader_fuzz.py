"""Thousands of damaged files: each loads as a person would expect, or is refused with one sentence.

Other cases than these: `python tests/surviving/loader_fuzz.py --seed 10000`.
"""

import logging

import loader_fuzz


def test_annotation_files(tmp_path, caplog, capfd):
    caplog.set_level(logging.ERROR)
    with capfd.disabled():  # what a hanging case says goes to the terminal
        ends = loader_fuzz.fuzz_annotations(2000, 0, tmp_path)
    assert ends["mutated"] == 2000
    assert ends["loaded"] > 400
    assert ends["refused"] > 400
    assert ends["loaded without some pictures"] > 10


def test_pictures(tmp_path, capfd):
    with capfd.disabled():
        ends = loader_fuzz.fuzz_pictures(2000, 0, tmp_path)
    assert ends["mutated"] == 2000
    assert ends["loaded"] > 400
    assert ends["refused"] > 400

import pytest

from ddetr.course.made_up import Found, Thing, judge


def test_one_object_found_and_one_missed():
    things = [Thing([0, 0, 20, 20]), Thing([50, 50, 20, 20])]
    metrics = judge(things, [Found([0, 0, 20, 20], 0.5)]).metrics
    assert metrics["AP50"] == pytest.approx(51 / 101)  # recall 0, 0.01, ... 0.5
    assert metrics["AR100"] == 0.5


def test_what_lies_in_a_crowd_does_not_count():
    thing, crowd = Thing([0, 0, 20, 20]), Thing([50, 0, 60, 60], crowd=True)
    found = [Found([60, 10, 10, 10], 0.9), Found([0, 0, 20, 20], 0.5)]
    assert judge([thing, crowd], found).metrics["AP50"] == pytest.approx(1)
    assert judge([thing], found).metrics["AP50"] == pytest.approx(0.5)


def test_nothing_found():
    assert judge([Thing([0, 0, 20, 20])], []).metrics["AP"] == 0

"""What a call costs."""

import time

import pytest
import torch

from ddetr.course.measure import measure, peak_bytes, seconds

X = torch.zeros(1000)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: X + 1, 4000),
        (lambda: X.view(10, 100), 0),  # no memory of its own
        (lambda: X.add_(0), 0),
        (lambda: [X + i for i in range(3)], 12000),
        (lambda: ((X + 1) + 1) + 1, 8000),  # the first is free when the third is made
        (lambda: (X + 1).to(torch.float64), 12000),
        (lambda: X.sum(), 4),
    ],
)
def test_bytes_that_are_alive_at_once(call, expected):
    assert peak_bytes(call) == expected
    assert peak_bytes(call) == expected  # nothing is left over from the first time


def test_a_loop_that_forgets_holds_one_result_and_the_next():
    def forgetful():
        for i in range(50):
            made = X + i
        return made

    assert peak_bytes(forgetful) == 8000


def test_what_autograd_keeps_counts():
    leaf = torch.ones(1000, requires_grad=True)

    def square():
        return torch.autograd.grad((leaf.exp() * 2).sum(), leaf)

    assert peak_bytes(square) >= 3 * 4000  # exp is kept for its gradient, beside the product and a gradient


def test_time():
    assert 0.02 <= seconds(lambda: time.sleep(0.02)) < 1
    cost = measure(lambda: X + 1, repeats=2)
    assert cost.peak_bytes == 4000
    assert cost.seconds > 0

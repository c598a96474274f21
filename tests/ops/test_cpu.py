"""The C++ back end against the definition."""

import pytest
import torch
from cases import FORMS, TOLERANCE, close, definition, every_case, fused_case, gradients, plain_case

from ddetr.ops import ms_deform_attn


def check(case, backend, grad_out=None):
    case = case.requires_grad()
    out = case.run(backend)
    if grad_out is None:
        grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)
    expected, expected_grads = definition(case, grad_out)
    assert out.dtype == case.value.dtype
    assert out.shape == expected.shape
    close(out, expected)
    for tensor, got, want in zip(case.tensors(), gradients(case, out, grad_out), expected_grads, strict=True):
        assert got.dtype == tensor.dtype
        assert got.shape == tensor.shape
        close(got, want)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_dtypes(cpu_backend, form, dtype):
    check(every_case(dtype=dtype, D=32)[form], cpu_backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [1, 3, 8, 16, 30, 32, 64, 71, 128, 1025, 2048])
def test_channels(cpu_backend, D, dtype):
    check(plain_case(B=1, Q=2, D=D, dtype=dtype), cpu_backend)


@pytest.mark.parametrize(("P", "sizes"), [(1, [(1, 1)]), (7, [(2, 3)]), (3, [(5, 1), (1, 5), (2, 2)]), (70, [(3, 3)])])
@pytest.mark.parametrize("form", FORMS)
def test_points_and_levels(cpu_backend, form, P, sizes):
    check(every_case(B=1, Q=2, P=P, sizes=sizes)[form], cpu_backend)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(cpu_backend, form):
    case = every_case(D=3)[form].requires_grad()
    torch.autograd.gradcheck(lambda *tensors: type(case)(*tensors, case.sizes).run(cpu_backend), case.tensors())


@pytest.mark.parametrize("form", FORMS)
def test_a_broadcast_gradient(cpu_backend, form):
    case = every_case()[form]
    check(case, cpu_backend, grad_out=torch.ones((), dtype=torch.float64).expand(2, 3, 8))


@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_gradients_that_are_not_contiguous(cpu_backend, form):
    case = every_case()[form]
    stretched = [torch.stack([t, t + 100], -1)[..., 0] for t in case.tensors()]  # every second number
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in case.tensors()]
    grad_out = torch.randn(8, 3, 2, dtype=torch.float64).permute(2, 1, 0)
    for tensors in (stretched, turned):
        assert not any(t.is_contiguous() for t in tensors)
        again = type(case)(*(t.requires_grad_() for t in tensors), case.sizes)
        out = again.run(cpu_backend)
        expected, expected_grads = definition(case, grad_out)
        torch.testing.assert_close(out, expected)
        for got, want in zip(gradients(again, out, grad_out), expected_grads, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("empty", [{"B": 0}, {"Q": 0}, {"M": 0}, {"D": 0}], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_empty(cpu_backend, form, empty):
    case = every_case(**empty)[form].requires_grad()
    out = case.run(cpu_backend)
    grads = gradients(case, out, torch.ones_like(out))
    assert out.shape == case.value.shape[:1] + (case.tensors()[-1].shape[1], case.value.shape[2] * case.value.shape[3])
    assert all(grad.eq(0).all() for grad in grads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9])
def test_a_place_that_is_none_reads_zero_and_passes_no_gradient(cpu_backend, bad):
    case = plain_case(B=1, Q=1, M=1, P=1, D=19, dtype=torch.float32)
    case.locations[..., 1] = bad
    case = case.requires_grad()
    out = case.run(cpu_backend)
    assert out.eq(0).all()
    for grad in gradients(case, out, torch.ones_like(out)):
        assert grad.eq(0).all()


@pytest.mark.parametrize("place", [0.0, 1.0, 1 / 8, 7 / 8, -1 / 8, 9 / 8, 0.5])
def test_edges(cpu_backend, place):
    """Cell centres, cell borders and the last place that still reads something, on a map of four cells each way."""
    case = plain_case(sizes=[(4, 4)], dtype=torch.float32)
    case.locations.fill_(place)
    check(case, cpu_backend)


def test_what_lies_outside_is_not_read_even_if_it_is_not_finite(cpu_backend):
    case = plain_case(B=1, Q=1, M=1, P=1, sizes=[(2, 2)], dtype=torch.float32)
    case.value[:, 1:] = float("nan")  # all but the top left cell
    case.locations.fill_(0.0)  # the map's corner: a quarter of that cell
    case.weights.fill_(1.0)
    torch.testing.assert_close(case.run(cpu_backend), case.value[:, :1].flatten(2) / 4)


@pytest.mark.parametrize("logits", ["large", "minus infinity", "nan", "all minus infinity"])
def test_the_softmax_is_pytorchs(cpu_backend, logits):
    case = fused_case(D=16, dtype=torch.float32)
    if logits == "large":
        case.logits.mul_(1000)
    else:
        first = case.logits if logits.startswith("all") else case.logits[..., 0]
        first.fill_(float("nan") if logits == "nan" else -float("inf"))
    torch.testing.assert_close(case.run(cpu_backend), case.run("grid_sample"), equal_nan=True)


def test_coordinates_and_weights_of_any_float_type(cpu_backend):
    case = plain_case(dtype=torch.float32)
    expected = case.run(cpu_backend)
    for dtype in (torch.float64, torch.float32):
        got = ms_deform_attn(case.value, case.sizes, None, case.locations.to(dtype), case.weights, backend=cpu_backend)
        torch.testing.assert_close(got, expected)
    low = case.to(torch.bfloat16)
    mixed = ms_deform_attn(low.value, case.sizes, None, case.locations, case.weights.bfloat16(), backend=cpu_backend)
    torch.testing.assert_close(mixed.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_whatever_the_number_of_threads(cpu_backend, form):
    case = every_case(B=1, Q=64, M=4, D=32, P=4, sizes=[(9, 7), (5, 4)], dtype=torch.float32)[form].requires_grad()
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            out = case.run(cpu_backend)
            results.append([out, *gradients(case, out, torch.ones_like(out))])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_only_the_gradients_that_are_asked_for(cpu_backend):
    case = fused_case(4)
    case.value.requires_grad_()
    case.run(cpu_backend).sum().backward()
    assert case.value.grad is not None
    assert case.offsets.grad is None

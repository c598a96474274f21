"""The code of one CUDA thread, run by ordinary threads, against the definition."""

import pytest
import torch
from cases import FORMS, close, definition, every_case, gradients


@pytest.fixture(autouse=True)
def _built(cpu_backend):
    pass


def arguments(case):
    """(value, level_sizes, reference_points or None, coordinates, weights) as the host operator takes them."""
    value, *reference, coordinates, weights = case.tensors()
    dtype = torch.promote_types(value.dtype, torch.float32)
    sizes = [n for pair in case.sizes for n in pair]
    return value, sizes, *([r.to(dtype) for r in reference] or [None]), coordinates.to(dtype), weights.to(dtype)


@pytest.mark.parametrize(("threads", "D"), [(1, 4), (1, 3), (2, 8), (4, 6), (8, 32), (4, 71)])
@pytest.mark.parametrize("form", FORMS)
def test_forward(form, threads, D):
    case = every_case(B=1, Q=2, D=D)[form]
    close(torch.ops.ddetr.cuda_on_host(*arguments(case), threads), case.define())


@pytest.mark.parametrize(("threads", "D"), [(1, 4), (1, 3), (2, 8), (4, 6), (8, 32)])
@pytest.mark.parametrize("form", FORMS)
def test_backward_is_the_cpu_kernels(form, threads, D):
    """Which other tests hold against the definition; the fused form's middle result is by cells in both."""
    case = every_case(B=1, Q=2, D=D)[form]
    value, sizes, reference, *sampling = arguments(case)
    grad_out = torch.randn(1, 2, 2 * D, dtype=torch.float64)
    got = torch.ops.ddetr.cuda_on_host_backward(grad_out, value, sizes, reference, *sampling, threads)
    if reference is None:
        want = torch.ops.ddetr.ms_deform_attn_backward(grad_out, value, sizes, *sampling)
    else:
        want = torch.ops.ddetr.ms_deform_attn_fused_backward(grad_out, value, sizes, reference, *sampling)
    for a, b in zip(got, want, strict=True):
        close(a, b)


def test_plain_backward_is_the_definitions():
    case = every_case(B=1, Q=2, D=8)["plain"].requires_grad()
    grad_out = torch.randn(1, 2, 16, dtype=torch.float64)
    _, expected = definition(case, grad_out)
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments(case)]
    for got, want in zip(torch.ops.ddetr.cuda_on_host_backward(grad_out, *detached, 2), expected, strict=True):
        close(got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    case = every_case(B=1, Q=2, D=32, dtype=dtype)["plain"]
    close(torch.ops.ddetr.cuda_on_host(*arguments(case), 4), case.to(torch.float64).define())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_hostile_places(bad):
    case = every_case(B=1, Q=1, D=4)["plain"]
    case.locations[..., 0, :] = bad
    case = case.requires_grad()
    out = case.define()
    want = gradients(case, out, torch.ones_like(out))
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments(case)]
    close(torch.ops.ddetr.cuda_on_host(*detached, 2), out)
    for a, b in zip(torch.ops.ddetr.cuda_on_host_backward(torch.ones_like(out), *detached, 2), want, strict=True):
        close(a, b)


def test_it_checks_its_inputs():
    case = every_case()["plain"]
    value, sizes, reference, coordinates, weights = arguments(case)
    with pytest.raises(RuntimeError, match="1 to 32 threads"):
        torch.ops.ddetr.cuda_on_host(value, sizes, reference, coordinates, weights, 0)
    with pytest.raises(RuntimeError, match="add up to"):
        torch.ops.ddetr.cuda_on_host(value, sizes[:2], reference, coordinates, weights, 1)

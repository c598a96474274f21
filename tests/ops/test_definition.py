"""The definition, and the pure PyTorch form against it."""

import pytest
import torch
from cases import FORMS, definition, every_case, fused_case, gradients, plain_case

from ddetr.ops import BACKENDS, bilinear_sample, ms_deform_attn, ms_deform_attn_fused, sampling_locations
from ddetr.ops.native import NATIVE


def test_a_point_on_a_cells_centre_reads_that_cell():
    image = torch.arange(6.0).view(2, 3, 1)
    assert bilinear_sample(image, 1.5, 0.5).item() == 1.0
    assert bilinear_sample(image, 2.0, 1.0).item() == (1 + 2 + 4 + 5) / 4
    assert bilinear_sample(image, 0.0, 0.5).item() == 0.0  # half of cell 0, which holds 0, and half of nothing
    assert bilinear_sample(image, 3.0, 1.5).item() == 2.5  # half of cell 5


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("loop", *NATIVE)])
@pytest.mark.parametrize("form", FORMS)
def test_a_back_end_in_pytorch_is_the_definition_in_value_and_gradient(form, backend):
    case = every_case()[form].requires_grad()
    grad_out = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = case.run(backend)
    expected, expected_grads = definition(case, grad_out)
    torch.testing.assert_close(out, expected)
    for got, want in zip(gradients(case, out, grad_out), expected_grads, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("form", FORMS)
def test_the_definition_passes_gradcheck_twice(form):
    case = every_case(B=1, Q=1, M=1, D=2, P=1)[form].requires_grad()

    def run(*tensors):
        return type(case)(*tensors, case.sizes).define()

    torch.autograd.gradcheck(run, case.tensors())
    torch.autograd.gradgradcheck(run, case.tensors())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9])
@pytest.mark.parametrize("backend", ["loop", "grid_sample"])
def test_a_place_that_is_none_reads_zero_and_passes_no_gradient(backend, bad):
    case = plain_case(B=1, Q=1, M=1, P=1, dtype=torch.float32)
    case.locations[..., 0] = bad
    case = case.requires_grad()
    out = case.run(backend)
    assert out.eq(0).all()
    for grad in gradients(case, out, torch.ones_like(out)):
        assert grad.eq(0).all()


def test_offsets_around_a_point_count_cells_of_the_level():
    reference = torch.tensor([0.5, 0.25]).view(1, 1, 1, 2)
    offsets = torch.tensor([2.0, -1.0]).view(1, 1, 1, 1, 1, 2)
    got = sampling_locations(reference, offsets, [(4, 8)]).flatten()
    assert got.tolist() == [0.5 + 2 / 8, 0.25 - 1 / 4]


def test_offsets_around_a_box_count_parts_of_half_its_sides():
    reference = torch.tensor([0.5, 0.5, 0.4, 0.2]).view(1, 1, 1, 4)
    offsets = torch.tensor([[1.0, 0.0], [2.0, -2.0]]).view(1, 1, 1, 1, 2, 2)
    got = sampling_locations(reference, offsets, [(4, 8)]).view(2, 2)
    torch.testing.assert_close(got, torch.tensor([[0.5 + 0.1, 0.5], [0.5 + 0.2, 0.5 - 0.1]]))


def test_shapes_may_be_tensors_of_any_integer_type_and_starts_are_checked():
    case = plain_case()
    expected = case.run("grid_sample")
    for dtype in (torch.int32, torch.int64):
        shapes, starts = torch.tensor(case.sizes, dtype=dtype), torch.tensor([0, 12], dtype=dtype)
        got = ms_deform_attn(case.value, shapes, starts, case.locations, case.weights)
        torch.testing.assert_close(got, expected)
        fused = fused_case()
        got = ms_deform_attn_fused(fused.value, shapes, starts, fused.reference_points, fused.offsets, fused.logits)
        torch.testing.assert_close(got, fused.define())

"""The operator as a citizen of PyTorch: opcheck, compile, export, autocast, vmap, double backward, ONNX."""

import pytest
import torch
from cases import FORMS, every_case, fused_case, plain_case
from torch import nn

from ddetr.ops import ms_deform_attn, ms_deform_attn_fused, native

FLAT = [3, 4, 2, 2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(cpu_backend, form, dtype):
    case = every_case(dtype=dtype)[form].requires_grad()
    value, *sampling = case.tensors()
    name = "ms_deform_attn" if form == "plain" else "ms_deform_attn_fused"
    torch.library.opcheck(getattr(torch.ops.ddetr, name), (value, FLAT, *sampling))
    detached = [t.detach() for t in sampling]
    grad_out = torch.randn(2, 3, 8, dtype=dtype)
    torch.library.opcheck(getattr(torch.ops.ddetr, f"{name}_backward"), (grad_out, value.detach(), FLAT, *detached))


class Module(nn.Module):
    """The fused operator behind linear layers, with the levels as a list of pairs, as the model calls it."""

    def __init__(self, levels: int, reference_size: int = 2):
        super().__init__()
        self.levels = levels
        self.offsets, self.logits = nn.Linear(8, 2 * levels * 2 * 2), nn.Linear(8, 2 * levels * 2)

    def forward(self, query, reference_points, maps):
        sizes = [(m.shape[1], m.shape[2]) for m in maps]
        value = torch.cat([m.flatten(1, 2) for m in maps], 1).unflatten(-1, (2, 4))
        shape = (*query.shape[:2], 2, self.levels, 2)
        offsets, logits = self.offsets(query).view(*shape, 2), self.logits(query).view(shape)
        return ms_deform_attn_fused(value, sizes, None, reference_points, offsets, logits)


def module_inputs(B=2, Q=3, sizes=((3, 4), (2, 2)), reference_size=2):
    maps = [torch.randn(B, h, w, 8, requires_grad=True) for h, w in sizes]
    return (
        torch.randn(B, Q, 8, requires_grad=True),
        torch.rand(B, Q, len(sizes), reference_size, requires_grad=True),
        maps,
    )


def with_gradients(run, inputs):
    query, reference_points, maps = inputs
    out = run(query, reference_points, maps)
    return [out, *torch.autograd.grad(out.square().sum(), (query, reference_points, *maps))]


@pytest.mark.parametrize("backend", ["grid_sample", "cpu"])
@pytest.mark.parametrize("reference_size", [2, 4])
def test_compile_in_one_graph_for_any_size(cpu_backend, monkeypatch, backend, reference_size):
    monkeypatch.setenv("DDETR_OP_BACKEND", backend)
    torch._dynamo.reset()
    module = Module(levels=2)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for B, Q, sizes in [(2, 3, ((3, 4), (2, 2))), (3, 5, ((6, 5), (3, 4))), (2, 9, ((4, 9), (5, 3)))]:
        inputs = module_inputs(B, Q, sizes, reference_size)
        for got, want in zip(with_gradients(compiled, inputs), with_gradients(module, inputs), strict=True):
            torch.testing.assert_close(got, want)


def test_inductor(cpu_backend):
    torch._dynamo.reset()
    case = fused_case(D=16, dtype=torch.float32).requires_grad()

    def run(*tensors):
        return 2 * type(case)(*tensors, case.sizes).run("cpu")

    compiled = torch.compile(run, fullgraph=True)
    got = torch.autograd.grad(compiled(*case.tensors()).sum(), case.tensors())
    for a, b in zip(got, torch.autograd.grad(run(*case.tensors()).sum(), case.tensors()), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["grid_sample", "cpu"])
def test_export(cpu_backend, monkeypatch, backend):
    monkeypatch.setenv("DDETR_OP_BACKEND", backend)
    module, inputs = Module(levels=2), module_inputs()
    program = torch.export.export(module, inputs)
    names = {str(node.target) for node in program.graph.nodes}
    assert ("ddetr.ms_deform_attn_fused.default" in names) == (backend == "cpu")
    torch.testing.assert_close(program.module()(*inputs), module(*inputs))


def test_onnx_takes_the_grid_sample_form(cpu_backend, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    module, inputs = Module(levels=2).eval(), module_inputs()
    path = tmp_path / "operator.onnx"
    torch.onnx.export(module, inputs, path, opset_version=16, dynamo=True)
    import onnx

    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "GridSample" in operators


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_autocast(cpu_backend, form, dtype):
    """The value is read in low precision, places and weights are not; gradients come back in the inputs' dtypes."""
    case = every_case(dtype=torch.float32, D=32)[form].requires_grad()
    with torch.autocast("cpu", dtype=dtype):
        out = case.run("cpu")
    assert out.dtype == dtype
    low = case.requires_grad()
    low.value = low.value.detach().to(dtype).requires_grad_()
    want = low.run("cpu")
    assert torch.equal(out, want)
    grads = torch.autograd.grad(out.sum(), case.tensors())
    for got, expected in zip(grads, torch.autograd.grad(want.sum(), low.tensors()), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected.float())


def test_autocast_leaves_float64_alone(cpu_backend):
    case = plain_case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.run("cpu")
    assert out.dtype == torch.float64


@pytest.mark.parametrize("form", FORMS)
def test_vmap(cpu_backend, form):
    cases = [every_case(seed=seed)[form] for seed in range(3)]
    stacked = [torch.stack(tensors, dim=1) for tensors in zip(*(case.tensors() for case in cases), strict=True)]

    def run(*tensors):
        return type(cases[0])(*tensors, cases[0].sizes).run("cpu")

    got = torch.func.vmap(run, in_dims=1)(*stacked)
    torch.testing.assert_close(got, torch.stack([case.run("cpu") for case in cases]))
    shared = torch.func.vmap(run, in_dims=(None, *[1] * (len(stacked) - 1)))(cases[0].value, *stacked[1:])
    expected = [run(cases[0].value, *case.tensors()[1:]) for case in cases]
    torch.testing.assert_close(shared, torch.stack(expected))


def test_func_grad_is_refused_by_pytorch(cpu_backend):
    """torch.library's gradients do not take part in torch.func.grad; grid_sample's do."""
    case = plain_case()

    def loss(value, backend):
        return ms_deform_attn(value, case.sizes, None, case.locations, case.weights, backend=backend).square().sum()

    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(loss)(case.value, "cpu")
    leaf = case.value.clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf, "cpu"), leaf)[0]
    torch.testing.assert_close(torch.func.grad(loss)(case.value, "grid_sample"), expected)


@pytest.mark.parametrize("form", FORMS)
def test_double_backward_is_refused(cpu_backend, form):
    case = every_case()[form].requires_grad()
    first = torch.autograd.grad(case.run("cpu").square().sum(), case.value, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.square().sum().backward()


def test_forced_by_the_environment(cpu_backend, monkeypatch):
    case = plain_case()
    monkeypatch.setenv("DDETR_OP_BACKEND", "abacus")
    with pytest.raises(ValueError, match="DDETR_OP_BACKEND is 'abacus'; choose one of"):
        ms_deform_attn(case.value, case.sizes, None, case.locations, case.weights)
    monkeypatch.setenv("DDETR_OP_BACKEND", "loop")
    out = ms_deform_attn(case.value.requires_grad_(), case.sizes, None, case.locations, case.weights)
    assert "DDETR" not in type(out.grad_fn).__name__.upper()
    monkeypatch.delenv("DDETR_OP_BACKEND")
    out = ms_deform_attn(case.value, case.sizes, None, case.locations, case.weights)
    assert "DDETR" in type(out.grad_fn).__name__.upper()


def test_a_back_end_that_is_not_there_says_why(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert native.unavailable("cuda") == "PyTorch sees no GPU"
    case = plain_case()
    with pytest.raises(RuntimeError, match="backend is 'cuda', which cannot serve: PyTorch sees no GPU"):
        ms_deform_attn(case.value, case.sizes, None, case.locations, case.weights, backend="cuda")

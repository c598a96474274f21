"""Building and loading: what is right, and what happens when it is not."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from ddetr.ops import build as building
from ddetr.ops import native
from ddetr.ops.build import BuildError, build

TINY = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def tiny(cache, tmp_path, monkeypatch):
    """Sources that compile in no time instead of the operator's."""
    try:
        building._cxx()
    except BuildError as error:
        pytest.skip(str(error))
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "tiny.cpp").write_text(TINY)
    monkeypatch.setattr(native, "source_dir", lambda: sources)
    monkeypatch.setattr(native, "SOURCES", {"cpu": ("tiny.cpp",)})
    return sources


def ddetr_ops(*arguments, **environment):
    """Run `python -m ddetr.ops ...`; returns (exit status, everything it said)."""
    result = subprocess.run(
        [sys.executable, "-m", "ddetr.ops", *arguments],
        capture_output=True, text=True, env=os.environ | environment, timeout=300,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def test_importing_builds_nothing(cache):
    code = "import ddetr.ops; print(ddetr.ops.available_backends()['cpu'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "it is not built: run python -m ddetr.ops build" in result.stdout
    assert not cache.exists()


def test_a_build_shows_progress_and_is_kept(tiny, cache):
    said = []
    path = build("cpu", say=said.append)
    assert path.parent == cache
    assert path.is_file()
    assert any("[1/2] tiny.cpp" in line for line in said)
    assert "built in" in said[-1]
    assert sorted(cache.iterdir()) == [path], "the build left something behind"
    assert cache.stat().st_mode & 0o777 == 0o700
    said.clear()
    assert build("cpu", say=said.append) == path
    assert "already built" in said[0]


def test_the_key_changes_with_sources_torch_and_instruction_set(tiny, monkeypatch):
    keys = {native.build_key("cpu")}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SOMETHING ELSE")
    keys.add(native.build_key("cpu"))
    monkeypatch.setattr(torch, "__version__", "0.0")
    keys.add(native.build_key("cpu"))
    (tiny / "tiny.cpp").write_text(TINY + "// changed\n")
    keys.add(native.build_key("cpu"))
    assert len(keys) == 4


def test_a_stale_build_is_not_loaded(tiny):
    build("cpu", say=lambda line: None)
    (tiny / "tiny.cpp").write_text(TINY + "// changed\n")
    assert "is of other sources, torch or processor: run" in native.unavailable("cpu")


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_build_is_not_loaded_and_is_built_anew(tiny, damage):
    path = build("cpu", say=lambda line: None)
    assert native.unavailable("cpu") is None
    native.unavailable.cache_clear()
    content = path.read_bytes()
    path.unlink()  # a new file: the process has mapped the old one
    path.write_bytes({"truncated": content[:100], "changed": content[:-1] + b"?", "empty": b""}[damage])
    assert native.unavailable("cpu").endswith("is damaged: run python -m ddetr.ops build --force")
    build("cpu", say=lambda line: None)
    assert native.unavailable("cpu") is None


def test_a_library_that_does_not_load_says_so(tiny, cache):
    cache.mkdir(parents=True, mode=0o700)
    text = cache / "no-library"
    text.write_text("this is no library")
    text.rename(cache / f"cpu-{native.build_key('cpu')}-{native.file_sha(text)}.so")
    assert native.unavailable("cpu")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_cache_that_others_can_write_is_not_used(tiny, cache):
    build("cpu", say=lambda line: None)
    cache.chmod(0o777)
    assert "can be written by others" in native.unavailable("cpu")
    with pytest.raises(BuildError, match="can be written by others"):
        build("cpu", force=True, say=lambda line: None)


def test_a_failed_build_is_one_sentence_with_a_log(tiny, cache):
    (tiny / "tiny.cpp").write_text("int broken( { }\n")
    with pytest.raises(BuildError, match=r"failed: .*error.*all it said is in .*build.log") as caught:
        build("cpu", say=lambda line: None)
    assert len(str(caught.value).splitlines()) == 1
    assert "broken" in (cache / "build.log").read_text()


def test_no_compiler_is_one_sentence_and_grid_sample_serves(cache):
    status, said = ddetr_ops("build", "cpu", CXX="no-such-compiler")
    assert status == 1
    assert said.strip() == (
        "cpu: not built, no C++ compiler (no-such-compiler) was found. ddetr works without it: grid_sample serves."
    )
    code = "import torch, ddetr.ops as o; print(o.choose_backend()); "
    code += "print(o.ms_deform_attn(torch.ones(1, 1, 1, 1), [(1, 1)], None, torch.full((1, 1, 1, 1, 1, 2), 0.5), "
    code += "torch.ones(1, 1, 1, 1, 1)).item())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["grid_sample", "1.0"]


def test_no_gpu_is_one_sentence(cache):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    status, said = ddetr_ops("build", "cuda", TORCH_CUDA_ARCH_LIST="")
    assert status == 1
    assert said.startswith("cuda: not built, ")
    assert len(said.strip().splitlines()) == 1


def test_an_unknown_kind_is_refused():
    status, said = ddetr_ops("build", "tpu")
    assert status == 2
    assert "cannot build 'tpu': choose from cpu, cuda" in said


def test_two_builders_at_once(cpu_backend, cache):
    """Two whole builds, started together in an empty cache: both succeed, and what is there then loads."""
    command = [sys.executable, "-m", "ddetr.ops", "build", "cpu"]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [builder.communicate(timeout=300)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], said
    assert all(path.suffix == ".so" for path in cache.iterdir())
    status, said = ddetr_ops()
    assert status == 0
    assert "cpu          yes" in said


def test_an_older_processor_gets_a_build_of_its_own(cpu_backend, cache):
    """Compiled for what PyTorch uses on a processor without AVX-512 and AVX2, or told to; the results agree."""
    status, said = ddetr_ops("build", "cpu", ATEN_CPU_CAPABILITY="default")
    assert status == 0, said
    code = (
        "import torch, ddetr.ops as o\n"
        "torch.manual_seed(0)\n"
        "args = torch.randn(1, 16, 2, 71), [(4, 4)], None, torch.rand(1, 5, 2, 1, 3, 2), torch.rand(1, 5, 2, 1, 3)\n"
        "a, b = (o.ms_deform_attn(*args, backend=name) for name in ('cpu', 'grid_sample'))\n"
        "torch.testing.assert_close(a, b)\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def test_the_cuda_file_compiles(cache):
    """Needs nvcc, not a GPU."""
    if shutil.which("nvcc") is None and not os.environ.get("CUDA_HOME"):
        pytest.skip("nvcc is not here: the CUDA file is not compiled")
    if torch.version.cuda is None:
        pytest.skip("this PyTorch has no CUDA: the CUDA file is not compiled")
    status, said = ddetr_ops("build", "cuda", TORCH_CUDA_ARCH_LIST="9.0")
    assert status == 0, said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_is_the_definition():
    from cases import definition, every_case, gradients

    if native.unavailable("cuda"):
        build("cuda")
    for D in (1, 3, 16, 32, 71, 1025):
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10), (torch.bfloat16, 2e-2)):
            for case in every_case(D=D, dtype=dtype).values():
                grad_out = torch.randn(2, 3, 2 * D, dtype=torch.float64).to(dtype)
                expected, expected_grads = definition(case, grad_out)
                there = type(case)(*(t.cuda().requires_grad_() for t in case.tensors()), case.sizes)
                out = there.run("cuda")
                for got, want in zip(
                    [out, *gradients(there, out, grad_out.cuda())], [expected, *expected_grads], strict=True
                ):
                    scale = max(1.0, want.abs().max().item())
                    torch.testing.assert_close(got.cpu().double(), want, rtol=tolerance, atol=tolerance * scale)

"""Compile the native back ends for this machine: `python -m ddetr.ops build`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import native


class BuildError(RuntimeError):
    """A build that cannot be done, in one sentence."""


def build(kind: str, *, force: bool = False, say: Callable[[str], None] = print) -> Path:
    """Compile back end `kind` ("cpu" or "cuda") into the cache and return the library's path.

    Nothing is compiled if the cache has it already, unless `force`. Two builders at once do not disturb each other:
    each works in a folder of its own, and the finished file appears under its name in one step.

    Raises:
        BuildError: no compiler, no GPU to compile for, or a failed compilation; grid_sample serves all the same.
    """
    existing = [path for path in native.find_builds(kind) if path.stem.endswith(native.file_sha(path))]
    if existing and not force:
        say(f"{kind}: already built, {existing[0]}")
        return existing[0]
    compiler = _nvcc() if kind == "cuda" else _cxx()
    cache = _private_cache()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(dir=cache) as work:
            library = _compile(kind, compiler, Path(work), say)
            final = cache / f"{kind}-{native.build_key(kind)}-{native.file_sha(library)}.so"
            os.replace(library, final)
    except OSError as error:  # a full disk, or one that is read alone
        raise BuildError(f"{cache} cannot be written into: {error.strerror or error}") from error
    native.unavailable.cache_clear()
    say(f"{kind}: built in {time.monotonic() - started:.0f} s, {final}")
    return final


def _compile(kind: str, compiler: str, work: Path, say: Callable[[str], None]) -> Path:
    sources = native.SOURCES[kind]
    flags = [*native.compile_flags(kind), *_include_flags(kind), *(_arch_flags() if kind == "cuda" else ())]
    done = []

    def compile_one(source: str) -> str:
        target = work / (source.replace("/", "_") + ".o")
        seconds = _run([compiler, *flags, "-c", str(native.source_dir() / source), "-o", str(target)])
        done.append(source)
        say(f"{kind}: [{len(done)}/{len(sources) + 1}] {source} ({seconds:.0f} s)")
        return str(target)

    with ThreadPoolExecutor(max_workers=max(1, min(len(sources), os.cpu_count() or 1))) as pool:
        objects = list(pool.map(compile_one, sources))
    library = work / f"{kind}.so"
    own = os.environ.get("DDETR_CXXFLAGS", "").split() if kind == "cpu" else []
    seconds = _run([compiler, "-shared", *own, *objects, "-o", str(library), *_link_flags(kind)])
    say(f"{kind}: [{len(sources) + 1}/{len(sources) + 1}] link ({seconds:.0f} s)")
    return library


def _run(command: list[str]) -> float:
    started = time.monotonic()
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"the compiler {command[0]} could not be started: {error.strerror}") from error
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line or "fatal" in line]
        why = errors[0].strip()[:200] if errors else "it did not say why"
        raise BuildError(f"{Path(command[0]).name} failed: {why} ({_kept(command, result)})")
    return time.monotonic() - started


def _kept(command: list[str], result: subprocess.CompletedProcess) -> str:
    """Where all that the compiler said is kept, for a sentence."""
    log = _private_cache() / "build.log"
    try:
        log.write_text(" ".join(command) + "\n" + result.stdout + result.stderr)
    except OSError as error:
        return f"{log} could not be written: {error.strerror}"
    return f"all it said is in {log}"


def _private_cache() -> Path:
    folder = native.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        native.refuse_shared(folder)
    except OSError as error:
        raise BuildError(f"the cache folder {folder} cannot be used: {error}") from error
    return folder


def _cxx() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    for name in names:
        if shutil.which(name) and sys.platform != "win32":  # the kernels use vectors that MSVC does not have
            return name
    raise BuildError(f"no C++ compiler ({' or '.join(names)}) was found")


def _nvcc() -> str:
    if torch.version.cuda is None:
        raise BuildError("this PyTorch was built without CUDA")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", *_nvidia_wheels()]
    for nvcc in [shutil.which("nvcc"), *(shutil.which("nvcc", path=f"{home}/bin") for home in homes if home)]:
        if nvcc:
            return nvcc
    raise BuildError("nvcc was not found: install the CUDA toolkit or set CUDA_HOME")


def _nvidia_wheels() -> list[Path]:
    """Folders of the nvidia-* wheels, which carry CUDA's headers and libraries."""
    return sorted(path.parent for path in Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"))


def _include_flags(kind: str) -> list[str]:
    flags = ["-isystem", str(Path(torch.__file__).parent / "include")]
    if kind == "cuda":
        flags += [part for home in _nvidia_wheels() for part in ("-isystem", str(home / "include"))]
    return flags


def _arch_flags() -> list[str]:
    """`TORCH_CUDA_ARCH_LIST` ("8.0;9.0+PTX"), else the visible GPUs."""
    names = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if not names:
        devices = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        names = sorted({f"{major}.{minor}" for major, minor in devices})
    if not names:
        raise BuildError("no GPU to compile for: none is visible and TORCH_CUDA_ARCH_LIST is not set")
    flags = []
    for name in names:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _link_flags(kind: str) -> list[str]:
    lib = Path(torch.__file__).parent / "lib"
    flags = [f"-L{lib}", "-lc10", "-ltorch_cpu"]
    if kind == "cuda":
        return [*flags, "-lc10_cuda"]
    # One OpenMP runtime in the process: the one that PyTorch brought, where it brought one.
    own = sorted(path for name in ("libgomp*", "libomp*", "libiomp*") for path in lib.glob(name))
    if sys.platform == "darwin":
        return [*flags, "-undefined", "dynamic_lookup", *map(str, own)]
    return [*flags, *(map(str, own) if own else ["-fopenmp"])]

"""The native back ends, "cpu" (C++) and "cuda": what is built for this machine, and loading it.

`build` writes each library into the user's cache under a name that says what it was made from and what it contains:
KIND-KEY-SHA.so. KEY changes with the sources, the torch version, the flags and the instruction set, so a stale build is
never found; SHA is of the file's own bytes, so a damaged one is never loaded.
"""

import functools
import hashlib
import os
import stat
import sys
from pathlib import Path

import torch

NATIVE = ("cpu", "cuda")
BUILD_COMMAND = "python -m ddetr.ops build"
SOURCES = {
    "cpu": ("cpu/ms_deform_attn.cpp", "cpu/forward.cpp", "cpu/backward.cpp", "cuda/on_host.cpp"),
    "cuda": ("cuda/ms_deform_attn.cu",),
}


@functools.cache
def unavailable(kind: str) -> str | None:
    """Load the native back end `kind` ("cpu" or "cuda"), once. None: it is there; else a sentence that says why not."""
    if kind == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    try:
        path = _checked_build(kind)
        torch.ops.load_library(str(path))
    except OSError as error:  # Unbuilt among them; a library that does not load too
        return str(error)
    return None


class Unbuilt(OSError):
    """There is no build that can be trusted. The message says why and what to do."""


def build_key(kind: str) -> str:
    """Sixteen hex digits that change with whatever makes a build a different one."""
    digest = hashlib.sha256()
    for path in sorted(source_dir().rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(source_dir()).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(repr((kind, torch.__version__, sys.platform, compile_flags(kind))).encode())
    return digest.hexdigest()[:16]


def source_dir() -> Path:
    """The folder `csrc`: inside the package when it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "geometry.h").is_file():
            return folder
    raise Unbuilt(f"the operator's C++ sources were not found in {package / 'csrc'} or {package.parent / 'csrc'}")


def compile_flags(kind: str) -> tuple[str, ...]:
    """What the compiler is told, instruction set included: the one that PyTorch itself uses on this processor.

    `DDETR_CXXFLAGS` adds flags of your own for the C++ back end.
    """
    if kind == "cuda":
        return ("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC")
    instruction_set = {
        "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c",
                   "-mprefer-vector-width=512"),
        "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    }  # fmt: skip
    openmp = ("-Xpreprocessor", "-fopenmp") if sys.platform == "darwin" else ("-fopenmp",)
    math = ("-fno-math-errno", "-fno-trapping-math")  # nobody reads errno or the exception flags; loops vectorise
    own = os.environ.get("DDETR_CXXFLAGS", "").split()  # such as a sanitizer's
    capability = torch.backends.cpu.get_cpu_capability()
    return ("-std=c++20", "-O3", "-fPIC", *math, *openmp, *instruction_set.get(capability, ()), *own)


def cache_dir() -> Path:
    """Where builds are kept: `DDETR_CACHE`, else the user's own cache folder. Not created here. Unbuilt if none is."""
    if os.environ.get("DDETR_CACHE"):
        return Path(os.environ["DDETR_CACHE"]).expanduser() / "ops"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "ddetr" / "ops"
    try:
        home = Path.home()
    except RuntimeError as error:  # in a container, for a user without a name
        raise Unbuilt("there is no home folder to keep builds in: set DDETR_CACHE to a folder of yours") from error
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ddetr" / "ops"


def find_builds(kind: str) -> list[Path]:
    """Builds of `kind` for these sources, this torch and this processor, newest first."""
    found = cache_dir().glob(f"{kind}-{build_key(kind)}-*.so")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def file_sha(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's bytes, as in a build's name."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _checked_build(kind: str) -> Path:
    builds = find_builds(kind)
    if not builds:
        stale = any(cache_dir().glob(f"{kind}-*.so"))
        why = "the build in the cache is of other sources, torch or processor" if stale else "it is not built"
        raise Unbuilt(f"{why}: run {BUILD_COMMAND}")
    refuse_shared(cache_dir())
    path = builds[0]
    if not path.stem.endswith(file_sha(path)):
        raise Unbuilt(f"the build {path} is damaged: run {BUILD_COMMAND} --force")
    return path


def refuse_shared(folder: Path) -> None:
    """Raise Unbuilt if somebody else could have put a library into `folder`."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise Unbuilt(f"the cache folder {folder} can be written by others: chmod 700 it, or set DDETR_CACHE")

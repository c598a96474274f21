"""Machines as they are: no home, a full disk, an operator that does not build, hours of predictions, Ctrl-C."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import small_model
from toy_data import make_coco

from ddetr.checkpoints import save_official
from ddetr.cli import main
from ddetr.data import CocoDetection, coco_layout
from ddetr.engine.batches import train_loader
from ddetr.ops import build as building
from ddetr.ops import native

ROOT = Path(__file__).parents[2]

SUM = """
import torch, ddetr.ops as ops
value = ops.ms_deform_attn(torch.ones(1, 1, 1, 1), [(1, 1)], None, torch.full((1, 1, 1, 1, 1, 2), 0.5),
                           torch.ones(1, 1, 1, 1, 1))
print(ops.choose_backend(), value.item(), ops.available_backends()["cpu"], sep="; ")
"""


def python(code, *arguments, without=(), **environment):
    """Run `code` in a process of its own; returns (exit status, what it printed, what it complained)."""
    variables = {name: value for name, value in os.environ.items() if name not in without}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=variables, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


# --- the operator -----------------------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written(tmp_path):
    """A file instead of a folder stands for it: root may write everywhere else."""
    (tmp_path / "home").write_text("")
    home = {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    status, printed, complaint = python(SUM, without=("XDG_CACHE_HOME", "DDETR_CACHE"), **home)
    assert (status, complaint) == (0, "")
    assert printed == "grid_sample; 1.0; it is not built: run python -m ddetr.ops build\n"
    build = "import sys; from ddetr.ops.__main__ import main; sys.argv[1:] = ['build', 'cpu']; sys.exit(main())"
    status, printed, complaint = python(build, without=("XDG_CACHE_HOME", "DDETR_CACHE"), **home)
    assert (status, complaint) == (1, "")
    assert printed.startswith("cpu: not built, the cache folder ")
    assert "cannot be used: [Errno 20] Not a directory" in printed
    assert printed.endswith("ddetr works without it: grid_sample serves.\n")


def test_no_home_at_all(monkeypatch):
    """As in a container that runs under a number without a name."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("DDETR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    native.unavailable.cache_clear()
    assert "no home folder to keep builds in: set DDETR_CACHE" in native.unavailable("cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert native.cache_dir() == Path("/somewhere/ddetr/ops")
    native.unavailable.cache_clear()


def test_a_compiler_that_fails_leaves_a_package_that_works(cache, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(building.BuildError, match=r"^false failed: it did not say why \(all it said is in "):
        building.build("cpu", say=lambda line: None)
    assert [path.name for path in cache.iterdir()] == ["build.log"]
    status, printed, complaint = python(SUM)
    assert (status, complaint) == (0, "")
    assert printed.startswith("grid_sample; 1.0; ")


def test_a_full_disk_while_building(cache):
    """No file may grow: neither what the compiler writes nor its log."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "from ddetr.ops.__main__ import main; sys.argv[1:] = ['build', 'cpu']; sys.exit(main())"
    )
    pytest.importorskip("resource")
    status, printed, complaint = python(code)
    assert status == 1
    assert complaint == ""
    assert printed.count("\n") == 1, printed
    assert printed.startswith("cpu: not built, ")
    assert [path for path in cache.rglob("*") if path.suffix != ".log"] == []


def test_another_torch_gets_a_build_of_its_own(cache, monkeypatch, tmp_path):
    """After an update the old one is not loaded; the sentence says why, and one command makes a new one."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(native, "source_dir", lambda: sources)
    monkeypatch.setattr(native, "SOURCES", {"cpu": ("tiny.cpp",)})
    try:
        old = building.build("cpu", say=lambda line: None)
    except building.BuildError as error:
        pytest.skip(str(error))
    assert native.unavailable("cpu") is None
    monkeypatch.setattr(torch, "__version__", "99.0")
    native.unavailable.cache_clear()
    assert "of other sources, torch or processor: run python -m ddetr.ops build" in native.unavailable("cpu")
    new = building.build("cpu", say=lambda line: None)
    assert new != old
    assert native.unavailable("cpu") is None


# --- the disk ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(limit):
    """No file of this process can grow beyond `limit` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("processes") / "toy")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "official.pth"
    save_official(small_model(), path)
    return path


TRAIN = "train --data {toy} --out {out} --epochs 1 --size 64"
TOYCOCO = "data toycoco --out {out} --train 2 --val 1 --workers 1"
CONVERT = "convert {weights} {out}/weights.%s --to %s --set num_queries=9"
COMMANDS = {  # how large a file may become, and what is whole before one would have to be larger
    "train": (TRAIN, 150, set()),
    "train, weights": (TRAIN, 4000, {"settings.json", "metrics.jsonl"}),
    "predict": ("predict {toy}/val2017/000000000200.png --weights tiny --out {out}", 150, set()),
    "eval": ("eval --predictions {found} --data {toy} --out {out}/evaluation.json", 150, set()),
    "figures": ("eval --predictions {found} --data {toy} --figures {out}", 150, set()),
    "toycoco": (TOYCOCO, 150, set()),
    "toycoco, pictures": (TOYCOCO, 8000, {"toycoco.json"}),
    "convert, official": (CONVERT % ("pth", "official"), 4000, set()),
    "convert, mmdet": (CONVERT % ("pth", "mmdet"), 4000, set()),
    "convert, ddetr": (CONVERT % ("safetensors", "ddetr"), 4000, set()),
    "convert, hf": (CONVERT % ("hf", "hf"), 4000, set()),
}


@pytest.mark.parametrize(("command", "limit", "whole"), COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(toy, weights, tmp_path, capsys, command, limit, whole):
    found, out = tmp_path / "found.json", tmp_path / "out"
    found.write_text('[{"image_id": 200, "category_id": 3, "bbox": [1, 2, 30, 40], "score": 0.5}]')
    with full_disk(limit):
        status = main(command.format(toy=toy, weights=weights, out=out, found=found).split())
    complaint = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    errors = [line for line in complaint if line.startswith("error: ")]
    assert len(errors) == 1, complaint
    assert "Traceback" not in "".join(complaint)
    assert "File too large" in errors[0] or "disk" in errors[0], errors
    assert str(out) in errors[0]
    left = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert left.keys() == whole
    for name, path in left.items():
        assert path.stat().st_size < limit, name  # a file that the disk cut off has just that size


# --- for hours --------------------------------------------------------------------------------------------------------

PREDICT = """
import sys, torch
from ddetr import build_model
from ddetr.data import prepare_image, read_image
torch.set_num_threads(1)
model = build_model("tiny_two_stage", num_classes=3, encoder_layers=1, decoder_layers=1, num_queries=10).eval()
pages = lambda: int(open("/proc/self/statm").read().split()[1])
sizes = []
for n in range(1000):
    picture, _ = read_image(sys.argv[1 + n % 4])
    with torch.inference_mode():
        found = model([prepare_image(picture, 32)])
    if n % 100 == 99:
        sizes.append(pages())
print(*sizes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_thousand_predictions_take_no_more_memory_than_two_hundred(toy):
    """Photos of four sizes, from the file to the boxes, in a process of its own."""
    photos = sorted(str(path) for path in (toy / "train2017").iterdir())
    status, printed, complaint = python(PREDICT, *photos)
    assert status == 0, complaint
    pages = [int(number) for number in printed.split()]
    growth = (pages[-1] - pages[1]) * os.sysconf("SC_PAGE_SIZE")
    assert growth < 4 * 2**20, pages  # a leak of one map of each prediction would be more


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_loading_processes_survive_the_interrupt_that_the_main_one_handles(toy):
    """A terminal sends Ctrl-C to all of them; were they to end, the run would end with an error, not a checkpoint."""
    dataset = CocoDetection(*coco_layout(toy, "train"))
    loader = train_loader(dataset, 1, 0, 1, 0, 40)
    batches = iter(loader)
    next(batches)
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGINT)
    assert sum(len(images) for images, _ in batches) == 39

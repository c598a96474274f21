"""What people get from `pip install`: the wheel made from this checkout, and from the source distribution."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ddetr
from ddetr.course import pages

pytestmark = pytest.mark.xdist_group("packaging")  # the wheel is built once
ROOT = Path(__file__).parents[1]

USED_ELSEWHERE = """
import socket

def refuse(*_):
    raise OSError("no network here")

socket.socket.connect = refuse
import ddetr, torch
from pathlib import Path
from ddetr.ops import choose_backend, native
from ddetr.viz import SamplingExplorer

print(Path(ddetr.__file__).parent)
print(native.source_dir())
print(choose_backend())
for name in ("tiny", "tiny_two_stage"):
    print(len(ddetr.load_pretrained(name).eval()([torch.zeros(3, 64, 64)])[0]["scores"]))
"""


def hatch(folder, out):
    """Build the source distribution and the wheel of the project in `folder`; returns the files."""
    pytest.importorskip("hatchling", reason='the wheel needs hatchling: pip install -e ".[test]"')
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=folder, check=True, capture_output=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return hatch(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel, installed into an empty folder: a pure wheel is only unpacked."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(built[1]).extractall(folder)
    return folder


def run(site, cwd, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(site)} | environment, capture_output=True, text=True,
    )  # fmt: skip


def contents(wheel):
    """What a wheel holds but its own bookkeeping: {name: size}."""
    infos = zipfile.ZipFile(wheel).infolist()
    return {info.filename: info.file_size for info in infos if ".dist-info/" not in info.filename}


def test_the_wheel_is_pure_and_holds_all_that_the_package_reads(built):
    assert built[1].name == f"ddetr-{ddetr.__version__}-py3-none-any.whl"
    wanted = {}
    for source, target in (("ddetr", "ddetr"), ("csrc", "ddetr/csrc"), ("data/weights", "ddetr/weights")):
        for file in (ROOT / source).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and file.name[0] != ".":
                wanted[f"{target}/{file.relative_to(ROOT / source).as_posix()}"] = file.stat().st_size
    settings = f"ddetr-{ddetr.__version__}.data/data/share/jupyter/lab/settings/overrides.d/ddetr.json"
    wanted[settings] = wanted["ddetr/viz/jupyterlab_settings.json"]
    assert {Path(name).suffix for name in wanted} >= {".py", ".js", ".css", ".json", ".cpp", ".cu", ".safetensors"}
    assert contents(built[1]) == wanted


def test_the_wheel_says_what_it_needs(built):
    wheel = zipfile.ZipFile(built[1])
    info = f"ddetr-{ddetr.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"course", "tensorboard", "test"} <= set(metadata.get_all("Provides-Extra"))
    assert any("jupyterlab" in one and "course" in one for one in metadata.get_all("Requires-Dist"))
    assert "ddetr = ddetr.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_source_distribution_makes_the_same_wheel(built, tmp_path):
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = tmp_path.iterdir()
    for name in ("bootstrap.py", "Makefile", "environment.yml", "tests/conftest.py", "notebooks/src/00_tour.py"):
        assert (folder / name).is_file(), name
    assert contents(hatch(folder, tmp_path / "dist")[1]) == contents(built[1])


def test_the_installed_package_works_elsewhere_without_network_and_compiler(installed, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = run(installed, tmp_path, "-c", USED_ELSEWHERE, PATH=str(nothing), DDETR_CACHE=str(nothing), CXX="")
    assert done.returncode == 0, done.stderr
    package = installed / "ddetr"
    assert done.stdout.splitlines() == [str(package), str(package / "csrc"), "grid_sample", "100", "100"]


def test_the_notebooks_are_not_in_the_wheel_and_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pages, "SOURCES", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        pages.main(["--out", str(tmp_path)])
    assert "run this from a checkout of the repository" in capsys.readouterr().err


def test_a_place_for_the_notebooks_that_cannot_be_made_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        pages.main(["--out", str(tmp_path / "file" / "pages")])
    assert capsys.readouterr().err.rstrip().endswith("(Not a directory): name another folder by --out")

"""bootstrap.py on a small project of the same form, without a network: real environments, real pip, awkward names."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("bootstrap")  # the environment is made once
ROOT = Path(__file__).parents[1]


def load():
    """bootstrap.py as a module, its constants computed anew."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPTIONS = load().TASKS["test"][0].split()[3:]

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "small"
version = "1"
"""

BACKEND = """\
import zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(Path(wheel_directory) / "small-1-py3-none-any.whl", "w") as wheel:
        for extra in ("METADATA", "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\nProvides-Extra: course\\n"
                      "Provides-Extra: test\\n"), \\
                     ("WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"), ("RECORD", ""):
            wheel.writestr("small-1.dist-info/" + extra[0], extra[1])
    return "small-1-py3-none-any.whl"
"""

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}

PYTEST = """\
import sys, time
try:
    print("tests", sys.prefix, sys.argv[1:], flush=True)
    time.sleep(60 if "wait" in sys.argv else 0)
except KeyboardInterrupt:
    print("ended in order", flush=True)
    sys.exit(2)
sys.exit(5)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose `ddetr.ops` and `pytest` only say that they ran; the latter ends with status 5."""
    folder = tmp_path_factory.mktemp("place") / "Zwei Wörter und 路径 '"
    (folder / "ddetr").mkdir(parents=True)
    shutil.copy(ROOT / "bootstrap.py", folder)
    shutil.copy(ROOT / "Makefile", folder)
    for name, text in {
        "pyproject.toml": PYPROJECT, "backend.py": BACKEND, "pytest.py": PYTEST, "ddetr/__init__.py": "",
        "ddetr/ops.py": "print('operator built')",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    return folder


def bootstrap(project, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "bootstrap.py", *arguments],
        cwd=project, env=clean_environment() | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def clean_environment():
    ours = ("PYTHONPATH", "DDETR_VENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "PYTHON")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture(scope="module")
def ready(project):
    """The project, set up after a first try that ended before pip was there: the environment is made anew."""
    (project / ".venv" / "half").mkdir(parents=True)
    (project / ".venv" / "pyvenv.cfg").touch()
    status, said, complaints = bootstrap(project, "test", "-k", "a b")
    assert "Setting up" in said, complaints
    assert "GB are free there" in said
    assert "Set up in" in said
    assert not (project / ".venv" / "half").exists()
    assert said.splitlines()[-2:] == ["operator built", f"tests {project / '.venv'} {[*OPTIONS, '-k', 'a b']}"]
    assert status == 5
    return project


def test_the_second_time_nothing_is_set_up(ready):
    status, said, _ = bootstrap(ready, "test")
    assert said.splitlines() == ["operator built", f"tests {ready / '.venv'} {OPTIONS}"]
    assert status == 5


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_hands_on(ready):
    command = ["make", "test", f"PYTHON={sys.executable}", "ARGS=-x tests/ops"]
    done = subprocess.run(command, cwd=ready, env=clean_environment(), capture_output=True, text=True)
    assert str([*OPTIONS, "-x", "tests/ops"]) in done.stdout, done.stderr
    assert done.returncode == 2  # make's word for a command that failed


def test_a_changed_pyproject_brings_the_environment_up_to_date(ready):
    """Without a network what is there serves, and the next run tries again."""
    left = ready / ".venv" / "left"
    left.touch()
    for text, expected in (
        (PYPROJECT.replace("requires = []", 'requires = ["no-such-package"]'), "Going on with what is there."),
        (PYPROJECT + "# changed\n", "Set up in"),
    ):
        (ready / "pyproject.toml").write_text(text)
        status, said, complaints = bootstrap(ready, "test", **OFFLINE)
        assert said.startswith(f"pyproject.toml has changed: bringing {ready / '.venv'} up to date."), complaints
        assert expected in said
        assert status == 5
    assert left.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_is_left_to_the_command(ready):
    """Ctrl-C goes to all processes of a terminal; pytest and Jupyter have things to do then."""
    process = subprocess.Popen(
        [sys.executable, "bootstrap.py", "test", "wait"],
        cwd=ready, env=clean_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not process.stdout.readline().startswith("tests"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "ended in order\n"
    assert process.returncode == 2


def test_a_folder_that_is_no_environment_is_left_alone(project, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    status, _, complaints = bootstrap(project, "setup", DDETR_VENV=str(tmp_path))
    assert status == 1
    assert complaints.startswith(f"error: {tmp_path} is no Python environment, and not empty")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_packages_that_cannot_be_had_are_one_sentence(ready, tmp_path):
    """Another checkout with the same environment is another project: pip has to do its part first."""
    copy = tmp_path / "copy"
    shutil.copytree(ready, copy, ignore=shutil.ignore_patterns(".venv"))
    (copy / "pyproject.toml").write_text(PYPROJECT.replace("requires = []", 'requires = ["no-such-package"]'))
    status, said, complaints = bootstrap(copy, "test", DDETR_VENV=str(ready / ".venv"), **OFFLINE)
    assert status == 1
    assert "tests" not in said
    assert complaints.splitlines()[-1].startswith("error: pip could not install the packages")


def test_unknown_tasks_and_help(project):
    status, _, complaints = bootstrap(project, "tset")
    assert status == 2
    assert complaints.startswith("error: no task 'tset'; there are setup, notebooks, test,")
    assert bootstrap(project)[1] == bootstrap(project, "--help")[1] == load().USAGE + "\n"
    assert all(f"\n  {task} " in load().USAGE for task in [*load().TASKS, "clean"])


def test_clean_removes_nothing_elsewhere(tmp_path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "build", project / "data", elsewhere):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    shutil.copy(ROOT / "bootstrap.py", project)
    (project / ".venv").symlink_to(elsewhere)
    assert bootstrap(project, "clean", DDETR_VENV=str(elsewhere))[0] == 0
    assert sorted(path.name for path in project.iterdir()) == ["bootstrap.py", "data"]
    assert (elsewhere / "file").exists()


def test_an_old_python_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert load().main(["test"]) == 1
    assert "3.10 or newer is needed" in capsys.readouterr().err


def test_options_are_the_last_commands(monkeypatch):
    module, commands = load(), []
    monkeypatch.setattr(module, "setup", lambda: None)
    monkeypatch.setattr(module, "call", lambda words: commands.append(words) or 0)
    assert module.main(["docs", "--search"]) == 0
    assert [words[-1] for words in commands if "--search" in words] == ["--search"]
    assert "pdoc" in commands[-1]


def test_windows_has_its_python_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delenv("DDETR_VENV", raising=False)
    assert load().PYTHON.relative_to(ROOT).as_posix() == ".venv/Scripts/python.exe"


def test_make_has_the_same_tasks():
    targets = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("TASKS :="))
    assert targets.split()[2:] == ["help", *load().TASKS, "clean"]

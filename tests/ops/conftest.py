import os

import pytest

from ddetr.ops import native
from ddetr.ops.build import BuildError, build


@pytest.fixture(scope="session")
def cpu_backend(tmp_path_factory) -> str:
    """The name of the C++ back end, built for this session if it was not before; skips where it cannot be."""
    if native.unavailable("cpu") is not None:
        os.environ["DDETR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
        try:
            build("cpu")
        except BuildError as error:
            pytest.skip(f"no native back end: {error}")
        finally:
            reason = native.unavailable("cpu")  # loaded from there, for the rest of the process
            del os.environ["DDETR_CACHE"]
        assert reason is None, reason
    return "cpu"

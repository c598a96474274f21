"""Writing files; what a full disk or a kill does to them is tested where they are written."""

import re

import pytest

from ddetr.files import write_json


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_file_where_there_is_no_folder(tmp_path, folder):
    """The name in the error is the one that was given, not that of the file beside it."""
    (tmp_path / "file").touch()
    path = tmp_path / folder / "x.json"
    with pytest.raises(OSError, match=re.escape(f"{path} could not be written: No")):
        write_json(path, {})

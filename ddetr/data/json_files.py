"""JSON that somebody else wrote: read with errors for people, and its numbers checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .images import DataError


def read_json(path: str | Path, missing: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """What the file holds. DataError if it is not there (the sentence `missing`), cannot be read, or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_hook=object_hook)
    except FileNotFoundError:
        raise DataError(missing) from None
    except (ValueError, RecursionError) as error:  # not text, not JSON, or a number of thousands of digits
        raise DataError(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def is_number(value: Any) -> bool:
    """Finite, as a float too: JSON's whole numbers can be larger than any."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

"""JSON that somebody else wrote: read with errors for people, and its numbers checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .images import DataError


def read_json(path: str | Path, missing: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """What the file holds, in UTF-8, 16 or 32, with or without a byte order mark (Windows' tools write all of these).

    DataError if it is not there (the sentence `missing`), cannot be read, is not JSON, or has an object in which a name
    stands twice: of the two values one would be lost.
    """

    def object_of(pairs: list[tuple[str, Any]]) -> Any:
        contents = dict(pairs)
        if len(contents) < len(pairs):
            repeated = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
            raise DataError(f"{path} has an object with two values for {repeated!r:.60}")
        return object_hook(contents) if object_hook else contents

    try:
        return json.loads(Path(path).read_bytes(), object_pairs_hook=object_of)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(missing) from None
    except (ValueError, RecursionError) as error:  # no text, not JSON, or a number of thousands of digits
        raise DataError(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def is_number(value: Any) -> bool:
    """Finite, as a float too: JSON's whole numbers can be larger than any."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

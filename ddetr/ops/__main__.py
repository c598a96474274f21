"""`python -m ddetr.ops`: what back ends there are. `python -m ddetr.ops build`: compile the fast ones."""

import argparse
import sys

from .build import BuildError, build
from .dispatch import available_backends
from .native import NATIVE, Unbuilt


def main() -> int:
    """Say what back ends there are, or build them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ddetr.ops", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("status", help="say what back ends there are (the default)")
    builder = commands.add_parser("build", help="compile for this machine, into your cache folder")
    builder.add_argument("kinds", nargs="*", metavar="cpu|cuda", help="what to build (default: all that can be)")
    builder.add_argument("--force", action="store_true", help="compile even what is built already")
    options = parser.parse_args()
    if options.command == "build":
        unknown = [kind for kind in options.kinds if kind not in NATIVE]
        if unknown:
            parser.error(f"cannot build {unknown[0]!r}: choose from {', '.join(NATIVE)}")
        return _build_all(options.kinds, options.force)
    for name, reason in available_backends().items():
        print(f"{name:12} {reason or 'yes'}")
    return 0


def _build_all(kinds: list[str], force: bool) -> int:
    """Build what was asked for. Without a request, that there is no GPU to build for is no failure."""
    failed = False
    for kind in kinds or NATIVE:
        try:
            build(kind, force=force, say=lambda line: print(line, flush=True))
        except (BuildError, Unbuilt) as error:
            print(f"{kind}: not built, {error}. ddetr works without it: grid_sample serves.", flush=True)
            failed |= kind == "cpu" or kind in kinds
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

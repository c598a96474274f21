"""What the notebooks need besides the package: checks of the exercises, and building the pages."""

from .check import check

__all__ = ["check"]

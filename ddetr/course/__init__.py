"""What the notebooks need besides the package: the exercises' checks, the doctor, the trace as a table, the pages."""

from .check import check
from .doctor import doctor

__all__ = ["check", "doctor"]

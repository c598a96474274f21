"""What the notebooks need besides the package: the exercises' checks, the doctor, the trace as a table, the pages."""

from .check import check
from .doctor import doctor
from .trace import trace_table

__all__ = ["check", "doctor", "trace_table"]

"""The report of a run: one self-contained HTML page with pictures, curves, health and errors."""

from .write import write_report

__all__ = ["write_report"]

"""Runs and evaluations as one self-contained page: sources -> sections -> page."""

from cxrdali.report.sources import ReportOptions
from cxrdali.report.write import write_report

__all__ = ["ReportOptions", "write_report"]

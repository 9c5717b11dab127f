"""Runs and evaluations as one self-contained page: sources -> sections -> page."""

import importlib

__all__ = ["ReportOptions", "write_report"]


def __getattr__(name: str):
    """Loaded when asked for: the page's pieces (page, plots) serve `cxrdali inspect` too, which needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "sources" if name == "ReportOptions" else "page"
    return getattr(importlib.import_module(f"{__name__}.training.{module}"), name)

"""Looking at a packed dataset: counts -> words and tables -> terminal or page."""

from cxrdali.report.dataset.facts import DatasetFacts, ReleaseFacts, read_facts
from cxrdali.report.dataset.text import render as as_text

__all__ = ["DatasetFacts", "ReleaseFacts", "as_text", "read_facts"]

"""Looking at a packed dataset: counts -> words and tables -> terminal or page."""

from cxrdali.inspect.facts import DatasetFacts, ReleaseFacts, read_facts
from cxrdali.inspect.text import render as as_text

__all__ = ["DatasetFacts", "ReleaseFacts", "as_text", "read_facts"]

"""The map of files in docs/architecture.md: one phrase per file, from the first sentence of its docstring.

python -m tests.file_map        # writes it again, after a file was added, moved or described anew
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: written by python -m tests.file_map -->\n", "<!-- /files -->\n"
# in the order of the data path
ROOMS = (
    "shards", "shards/storage", "shards/dataset", "shards/decoding", "shards/releases", "shards/renditions",
    "shards/packing", "shards/synthetic", "cxrdali",
    "cxrdali/runtime", "cxrdali/metrics", "cxrdali/data", "cxrdali/models", "cxrdali/postprocess", "cxrdali/runs",
    "cxrdali/predict", "cxrdali/train", "cxrdali/evaluate", "cxrdali/report", "cxrdali/studies", "cxrdali/export",
    "cxrdali/serve", "cxrdali/doctor", "cli", "benchmarks",
)  # fmt: skip


def section() -> str:
    """A heading and a table per room; folders inside a room are part of it."""
    parts = []
    for room in ROOMS:
        deeper = room not in ("shards", "cxrdali")
        found = sorted((ROOT / room).rglob("*.py") if deeper else (ROOT / room).glob("*.py"))
        files = [(path, phrase(path)) for path in found if not path.name.startswith("__")]
        if files:
            about = phrase(ROOT / room / "__init__.py")
            rows = [f"| `{path.relative_to(ROOT / room)}` | {text} |" for path, text in files]
            head = f"### {room}/\n\n{about}\n" if about else f"### {room}/\n"
            parts.append("\n".join((head, "| file | is |", "|---|---|", *rows, "")))
    return "\n".join(parts)


def phrase(path: Path) -> str:
    """The first sentence of a file's docstring, on one line, without its full stop; "" without a docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"\.(?=\s+[A-Z]|$)", text)[0].replace("|", "\\|")


def main() -> None:
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + section() + END + after)


if __name__ == "__main__":
    main()

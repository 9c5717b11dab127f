"""The key of a sample in a shard."""

from urllib.parse import quote


def sample_key(subject_id: str, study_id: str, image_id: str) -> str:
    """SUBJECT/STUDY/IMAGE, percent-escaped, dots too: WebDataset ends a key at its first dot.

    It also skips names that begin with __ID__, so a first underscore that another follows is escaped.
    """
    key = "/".join(quote(name, safe="").replace(".", "%2E") for name in (subject_id, study_id, image_id))
    return f"%5F{key[1:]}" if key.startswith("__") else key

"""Words of messages: counted nouns, and names that are near one that was mistyped."""

import difflib
import re
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """1 image, 1,200 images, 2 studies, 2 batches."""
    if count == 1:
        return f"1 {noun}"
    plural = re.sub(r"(ss|x|tch|sh)$", r"\1e", re.sub(r"([^aeiou])y$", r"\1ie", noun))
    return f"{count:,} {plural}s"


def are(count: int, noun: str) -> str:
    """1 image is, 2 images are."""
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'}"


def near(name: str, known: Iterable[str]) -> list[str]:
    """At most three of the known names: those of which `name` is the beginning, then those that look like it."""
    folded = {each.casefold(): each for each in known}
    alike = difflib.get_close_matches(name.casefold(), folded, 3, 0.65)
    longer = sorted((each for each in folded if name and each.startswith(name.casefold())), key=len)
    return [folded[each] for each in dict.fromkeys([*longer, *alike])][:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Part of a message before the list of all names: "did you mean asl? "; "" where none is near."""
    found = near(name, known)
    return f"did you mean {' or '.join(found)}? " if found else ""


def choices(name: object, known: Iterable[str], words: str = "choose one of") -> str:
    """How to mend a name that there is not: "did you mean asl? choose one of bce, asl"."""
    names = list(known)
    return f"{did_you_mean(str(name), names)}{words} {', '.join(names)}"

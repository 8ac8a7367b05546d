"""INI files as servers write them: sections of `key = value`, the last word counts."""

_QUOTES = ('"', "'")


def sections(text: str) -> dict[str, dict[str, str]]:
    """Section -> key -> what stands there. What is no such line is passed over."""
    found: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and "]" in line:
            here = found.setdefault(line[1 : line.index("]")].strip(), {})
            continue
        key, equals, told = line.partition("=")
        if equals and line[0] not in ";#":
            here[key.strip()] = _bare(told)
    return found


def _bare(told: str) -> str:
    """Without a comment after it and quotes around it."""
    text = told.strip()
    if text.startswith(_QUOTES) and text.count(text[0]) > 1:
        return text[1 : text.index(text[0], 1)]
    return text.partition(" ;")[0].partition(" #")[0].strip()

"""What a running uWSGI was told of its cheaper subsystem, as far as that can be told.

Neither the stats server nor the FIFO says which algorithm sizes the pool. The master's command line
does, and the files that it names: INI, YAML, JSON or XML, in which an option looks alike enough for
one expression. What comes from the environment, an emperor, or a file that we may not read is not
seen; then the answer is None, and a fight shows in the read-back.
"""

import re
from pathlib import Path

_FILES = frozenset({".ini", ".yaml", ".yml", ".json", ".js", ".xml", ".conf"})
_FILE_BYTES = 256 << 10
_FILES_MOST = 8
_ALGORITHM = re.compile(r"(?<!\w)cheaper-algo[\s=:>\"']+([a-z]\w*)")
_CHEAPER = re.compile(r"(?<!\w)cheaper[\s=:>\"']+[0-9]+")
_COMMENT = re.compile(r"^\s*[;#].*$", re.MULTILINE)
_DEFAULT = "spare"
HOW = "start uWSGI with --cheaper 1 --cheaper-initial N --cheaper-algo manual --processes MOST"


def refusal(master: int, cwd: str, proc: str = "/proc") -> str:
    """Why uWSGI's own algorithm would undo what is moved; empty: it would not, or none can tell."""
    text = _told(master, cwd, proc)
    algorithms = _ALGORITHM.findall(text)
    if algorithms:
        algorithm = algorithms[-1]
    elif _CHEAPER.search(text):
        algorithm = _DEFAULT
    else:
        return ""
    if algorithm == "manual":
        return ""
    return f"uWSGI sizes the pool itself (cheaper-algo {algorithm}) and would undo it: {HOW}"


def _told(master: int, cwd: str, proc: str) -> str:
    """The command line and the files named in it, without comments; empty when unreadable."""
    try:
        words = Path(f"{proc}/{master}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    parts = ["\n".join(words)]
    for word in words:
        path = Path(cwd, word.rpartition("=")[2].partition(":")[0])
        if path.suffix not in _FILES or not path.is_file() or len(parts) > _FILES_MOST:
            continue
        try:
            with path.open("rb") as file:
                parts.append(_COMMENT.sub("", file.read(_FILE_BYTES).decode(errors="replace")))
        except OSError:
            continue
    return "\n".join(parts)

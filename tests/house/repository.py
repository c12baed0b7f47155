"""The files of this checkout, and what its pages quote: links, code, commands."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "benchmarks", "docs", "recipes", ".ci")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that belongs to the project: those that git knows, or, in an archive, those in its folders."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        names = [name for name in listing.decode().split("\0") if name]
        files = [ROOT / name for name in names]
    else:
        files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
        files += ROOT.iterdir()
    return tuple(sorted(path for path in files if path.is_file()))


def sources(*folders: str) -> list[Path]:
    """The Python files below some folders."""
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def pages() -> list[Path]:
    """The Markdown pages for readers: those at the top and those of the site."""
    return [path for path in tracked() if path.suffix == ".md" and path.parent in (ROOT, *(ROOT / "docs").rglob("."))]


def name(path: Path) -> str:
    """A file's name in messages and test ids."""
    return path.relative_to(ROOT).as_posix()


def fences(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def quoted(text: str) -> list[str]:
    """What a page quotes as one line of code: inline spans and the lines of its shell blocks, comments cut off."""
    lines = [line for body in fences(text, "sh") for line in body.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    return [re.sub(r"\s+#.*", "", line).strip() for line in (*lines, *spans)]


def links(text: str) -> list[str]:
    """The relative targets of links and pictures, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text))
    return [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]

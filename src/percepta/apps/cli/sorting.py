"""Pictures sorted into one folder a label, by copy or by link; the originals never move."""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from pathlib import Path

from percepta.apps.cli.common import check_writable
from percepta.errors import BadInput, one_of

WAYS = ("copy", "link")


def check_sorting(folder: Path | None, by: str) -> None:
    """Raises BadInput for an unknown way, or a folder that is a file."""
    if by not in WAYS:
        raise one_of("--by", by, WAYS)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise BadInput(f"--sort-into must be a folder; {str(folder)!r} is a file.")
    if folder is not None:
        check_writable(folder)


def sort_into(folder: Path, label: str, file: Path, by: str) -> Path:
    """Copy or link `file` into the folder of its label; a name that is taken by another file gets a number.

    Returns: where it is now as well. Sorting twice changes nothing.
    """
    place = folder / folder_name(label)
    place.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        target = place / (file.name if number == 1 else f"{file.stem} ({number}){file.suffix}")
        if not os.path.lexists(target):
            break
        if _same(target, file):
            return target
    if by == "link":
        target.symlink_to(file.resolve())
    else:
        shutil.copy2(file, target)
    return target


def folder_name(label: str) -> str:
    """A label as the name of a folder that every system can hold."""
    text = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in label).strip(" .")
    return text[:100] or "_"


def _same(target: Path, file: Path) -> bool:
    try:
        return target.samefile(file) or filecmp.cmp(target, file, shallow=False)
    except OSError:  # a link to nowhere
        return False

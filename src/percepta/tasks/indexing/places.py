"""Where an index lies, and where the folder lies that its names are relative to.

The file holds the root twice: as the way from the index, which stays right when both move together, and as an absolute
path, which stays right when the index alone moves.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from percepta.catalog import user_folder
from percepta.errors import BadInput
from percepta.media import Source
from percepta.media.sniffing import name_of
from percepta.results import Failure

IN_FOLDER = ".percepta.index"
"""The index of a single folder lies in it under this name, unless another place is named."""


def default_place(inputs: Sequence[str]) -> Path:
    """Where the index of folders lies when nobody says: in a single one, of several in one place for the account.

    Raises: BadInput for other inputs, and for what does not exist.
    """
    folders = [Path(os.path.expanduser(item)) for item in inputs]
    for folder in folders:
        if str(folder) != "-" and not glob.has_magic(str(folder)) and not os.path.exists(folder):
            raise BadInput(f"{name_of(folder)} does not exist.")
    if not all(folder.is_dir() for folder in folders):
        raise BadInput("name the index with --to FILE; only that of folders has a place by itself.")
    return folders[0] / IN_FOLDER if len(folders) == 1 else account_place()


def names_nothing(text: str) -> bool:
    """Whether a text is no file, folder, glob or "-", nor looks as if it should be one."""
    ending = os.path.splitext(text)[1]
    looks = os.sep in text or "/" in text or (len(ending) > 1 and " " not in text) or text == "-"
    return not looks and not glob.has_magic(text) and not os.path.lexists(os.path.expanduser(text))


def account_place() -> Path:
    """The index of the account, which several folders share."""
    return user_folder() / "pictures.index"


def common_root(inputs: Any, sources: Iterable[Source | Failure] = ()) -> Path:
    """The deepest folder that holds all inputs and sources that are files; the working directory where there are none.

    Args:
        inputs: files, folders, globs, "-", or whatever else `media.collect` takes.
        sources: what was found for them, for names that came on standard input.

    Raises: BadInput for places on several drives.
    """
    places = {_folder_of(item) for item in input_paths(inputs)}
    files = (source.path for source in sources if isinstance(source, Source) and source.path is not None)
    places.update(os.path.dirname(os.path.abspath(path)) for path in files)
    return common_folder(places) if places else Path.cwd()


def common_folder(places: Iterable[str | Path]) -> Path:
    """The deepest folder that holds all of the absolute paths. Raises BadInput where there is none."""
    try:
        return Path(os.path.commonpath(list(places)))
    except ValueError as error:
        raise BadInput("an index holds files below one folder; make one for each drive.") from error


def input_paths(inputs: Any) -> list[str]:
    """The inputs that are names of files, folders or globs, absolute."""
    items = [inputs] if isinstance(inputs, str | os.PathLike) else inputs if isinstance(inputs, Sequence) else []
    names = [item.path if isinstance(item, Source) else item for item in items]
    return [
        os.path.abspath(os.path.expanduser(os.fsdecode(name)))
        for name in names
        if isinstance(name, str | os.PathLike) and os.fspath(name) != "-"
    ]


def _folder_of(place: str) -> str:
    while not os.path.isdir(place):  # a file, or a glob: the part before its first pattern
        place = os.path.dirname(place)
    return place


def root_hints(root: Path, index: Path) -> dict[str, str]:
    """What an index remembers of its root."""
    root, home = root.absolute(), index.absolute().parent
    try:
        way = json.dumps(os.path.relpath(root, home))
    except ValueError:  # on another drive
        way = "null"
    return {"root": json.dumps(str(root)), "root from here": way}


def find_root(hints: Mapping[str, str], index: Path) -> Path:
    """The root: by its way from the index where that lies inside of it, else by its old place, else by the way."""
    absolute, way = Path(json.loads(hints["root"])), json.loads(hints["root from here"])
    if way is None:
        return absolute
    near = Path(os.path.normpath(index.absolute().parent / way))
    inside = set(Path(way).parts) <= {"..", "."}
    return near if inside or (not os.path.isdir(absolute) and os.path.isdir(near)) else absolute

"""300 broken files through the verbs: no crash, every file either done or named, exit code 1."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from percepta.media import collect
from percepta.results import Failure
from tests.media import broken


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "broken"
    assert len(broken.build(folder)) == 300
    return folder


@pytest.mark.filterwarnings("ignore")
def test_every_broken_file_is_done_or_named(percepta: Any, corpus: Path) -> None:
    paths = [Path(top) / name for top, _, names in os.walk(corpus) for name in names]
    names = [str(path) for path in paths]
    done = percepta("classify", *names, "--labels", "a cat,a dog", "--json")
    assert done.code == 1
    results = {json.loads(line)["source"] for line in done.lines}
    sentences = [line for line in done.err.splitlines() if line.startswith("percepta: ")]
    assert f"percepta: {len(names) - len(results)} inputs could not be used." in sentences
    assert "Traceback" not in done.err
    named = "\n".join(sentences)
    for name in set(names) - results:
        # a name with odd characters is shown with escapes, so its plain parts are looked for
        assert repr(os.path.basename(name))[1:-1] in named or repr(name)[1:-1] in named


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_them_ends_with_a_report(percepta: Any, corpus: Path, tmp_path: Path) -> None:
    found = list(collect(corpus))
    done = percepta("embed", corpus, "-o", tmp_path / "v.npy")
    assert done.code == 1
    assert sum(isinstance(entry, Failure) for entry in found) <= done.err.count("percepta: ")
    report = percepta("classify", corpus, "--labels", "a cat,a dog", "--report", tmp_path / "r.html")
    assert report.code == 1
    assert "could not be used" in (tmp_path / "r.html").read_text(encoding="utf-8")

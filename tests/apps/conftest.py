"""A command line in this process, on the nano architecture under seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from percepta.apps.cli import run
from percepta.tasks import encoder
from tests.tasks import nano


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Percepta = Callable[..., Outcome]


@pytest.fixture(scope="session")
def nano_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano.weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def percepta(capsys: pytest.CaptureFixture[str], nano_file: Path, monkeypatch: pytest.MonkeyPatch) -> Percepta:
    """Run a command; verbs that need a model get the seeded one."""
    monkeypatch.setattr(encoder, "_told", {"pe-core-nano"})

    def call(*arguments: object, weights: bool = True) -> Outcome:
        words = [str(argument) for argument in arguments]
        if weights and words and words[0] in ("classify", "embed", "features", "index", "search", "demo"):
            words += ["--weights", str(nano_file)]
        capsys.readouterr()
        code = run(words)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = nano.pictures(tmp_path_factory.mktemp("media"))
    nano.clip(folder / "moving.mp4")
    return folder

"""With sockets forbidden every verb works, and none tries to open a connection."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from percepta.apps import demo


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to connect or to look up a name; each is refused."""
    tried: list[object] = []

    def refuse(*arguments: object, **_named: object) -> None:
        tried.append(arguments)
        raise OSError("the network is not to be used")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse, raising=False)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_the_guard_notices(attempts: list[object]) -> None:
    with pytest.raises(OSError, match="not to be used"):
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)
    assert len(attempts) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["describe", "pe-core-l14-336"],
        ["doctor"],
        ["classify", "MEDIA", "--labels", "a cat,a dog", "--templates", "imagenet", "--report", "OUT/r.html"],
        ["embed", "MEDIA", "-o", "OUT/v.npy"],
        ["features", "MEDIA", "-o", "OUT/layers"],
        ["search", "MEDIA", "a cat"],
        ["train"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_connects(
    percepta: Any, media: Path, tmp_path: Path, attempts: list[object], arguments: list[str]
) -> None:
    done = percepta(*[word.replace("MEDIA", str(media)).replace("OUT", str(tmp_path)) for word in arguments])
    assert done.code == 0
    assert attempts == []


def test_the_demo_does_not_connect(
    percepta: Any, tmp_path: Path, attempts: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SCENES": 5, "CLIPS": 3, "FRAMES": 4, "SIDE": 64}.items():
        monkeypatch.setattr(demo, name, value)
    assert percepta("demo", "-o", tmp_path / "demo").code == 0
    assert attempts == []


def test_addresses_are_refused_without_a_connection(percepta: Any, attempts: list[object]) -> None:
    done = percepta("classify", "http://127.0.0.1/cat.jpg", "--labels", "a cat,a dog")
    assert done.code == 1
    assert "is an address; save it to a file first" in done.err
    assert attempts == []

"""Every test runs on one thread and without a network: a connection that leaves the machine is an error."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def plainly(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """The plain way of every kind of part."""
    return "fused" if kind == "attention" else "plain"


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the verbs load runs plainly: which way a busy machine finds fastest must not decide a last digit."""
    monkeypatch.setattr("percepta.running.preparing.fastest", plainly)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attempts are refused and, since code may swallow the refusal, counted."""
    attempts: list[Any] = []

    def guard(name: str) -> None:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if isinstance(address, tuple) and address[0] not in LOCAL:
                attempts.append(address)
                raise OSError("tests have no network")
            return original(self, address)

        monkeypatch.setattr(socket.socket, name, connect)

    guard("connect")
    guard("connect_ex")
    yield
    assert not attempts, f"the test tried to reach {attempts}"

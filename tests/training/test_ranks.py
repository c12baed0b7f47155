"""Two processes against one: the same batch must give the same loss and the same gradients."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from percepta.training.objectives import contrastive_loss
from percepta.training.ranks import Ranks

CASES = ("plain", "equal captions", "hard negatives", "all")
BATCH = 12


class Towers(nn.Module):
    """Two small towers with biases and a logit scale; the loss is computed inside, as `Learner` does."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks
        self.image = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8))
        self.text = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 8))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, rows: dict[str, Tensor], case: str) -> Tensor:
        hard = case in ("hard negatives", "all")
        return contrastive_loss(
            self.image(rows["pictures"]),
            self.text(rows["texts"]),
            self.logit_scale,
            rows["keys"] if case in ("equal captions", "all") else None,
            self.text(rows["wrong"]) if hard else None,
            rows["there"] if hard else None,
            3.0 if hard else 1.0,
            self.ranks.gather,
            self.ranks.rank * len(rows["keys"]),
        )


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "pictures": torch.randn(BATCH, 10, generator=generator),
        "texts": torch.randn(BATCH, 7, generator=generator),
        "wrong": torch.randn(BATCH, 7, generator=generator),
        "keys": torch.tensor([5, 1, 2, 5, 3, 1, 5, 7, 8, 1, 9, 5]),  # equal ones within and across processes
        "there": torch.rand(BATCH, generator=generator) < 0.6,
    }


def towers(ranks: Ranks) -> Towers:
    torch.manual_seed(0)
    return Towers(ranks)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def join(rank: int, port: int, size: int = 2) -> dict[str, Any]:
    """One of two processes: the loss and the gradients that it ends up with, by case."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        ranks = Ranks(rank, size)
        own = {name: rows.chunk(size)[rank] for name, rows in batch().items()}
        model = towers(ranks)
        wrapped = DistributedDataParallel(copy.deepcopy(model))
        results: dict[str, Any] = {}
        for case in CASES:
            wrapped.zero_grad()
            loss = wrapped(own, case)
            loss.backward()
            results[case] = (ranks.mean(loss.detach()), gradients(wrapped.module))
        device = torch.device("cpu")
        results["flags"] = (ranks.any(rank == 1, device), ranks.any(False, device))
        results["gathered"] = ranks.gather(torch.full((2, 3), rank))
        ranks.wait()
    finally:
        distributed.destroy_process_group()
    return results


def second(port: int, path: str) -> None:
    torch.save(join(1, port), path)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("ranks") / "second.pt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = dict(os.environ)
    other = multiprocessing.get_context("spawn").Process(target=second, args=(port, str(path)))
    other.start()
    try:
        first = join(0, port)
        other.join(60)
    finally:
        other.kill()
        os.environ.clear()
        os.environ.update(before)
    assert other.exitcode == 0
    return [first, torch.load(Path(path), weights_only=True)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_and_the_gradients_of_one(both: list[dict[str, Any]], case: str) -> None:
    whole = towers(Ranks())
    loss = whole(batch(), case)
    loss.backward()
    assert whole.logit_scale.grad is not None
    assert whole.logit_scale.grad.abs() > 1e-3
    for results in both:
        found, parts = results[case]
        torch.testing.assert_close(found, loss.detach(), atol=1e-6, rtol=0)
        # DDP leaves out biases that a softmax cannot see in neither; every parameter is compared.
        assert parts.keys() == gradients(whole).keys()
        for name, expected in gradients(whole).items():
            torch.testing.assert_close(
                parts[name], expected, atol=1e-6, rtol=0, msg=lambda text, name=name: name + text
            )


def test_without_gathering_the_gradients_would_differ(both: list[dict[str, Any]]) -> None:
    """The comparison above can fail: each half against itself alone is another loss."""
    halves = [{name: rows.chunk(2)[rank] for name, rows in batch().items()} for rank in range(2)]
    model = towers(Ranks())
    alone = torch.stack([model(half, "plain") for half in halves]).mean()
    assert (alone - both[0]["plain"][0]).abs() > 0.1


def test_what_processes_tell_each_other(both: list[dict[str, Any]]) -> None:
    for results in both:
        assert results["flags"] == (True, False)
        assert results["gathered"].tolist() == [[0, 0, 0]] * 2 + [[1, 1, 1]] * 2


def test_alone_nothing_is_exchanged() -> None:
    ranks, own = Ranks(), torch.randn(3, 2)
    assert ranks.first
    assert ranks.gather(own) is own
    assert ranks.mean(own) is own
    assert ranks.any(True, own.device)
    ranks.wait()

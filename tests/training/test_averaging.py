from __future__ import annotations

import pytest
import torch
from torch import nn

from percepta.errors import BadInput
from percepta.training.averaging import MovingAverage


def test_average_follows_the_closed_form() -> None:
    net = nn.Linear(3, 2)
    average = MovingAverage(net, 0.5)
    expected = net.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            net.weight += 1
        average.update(net, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    torch.testing.assert_close(average.tensors["weight"], expected)
    assert not torch.equal(average.tensors["weight"], net.weight)


def test_buffers_are_averaged_and_integers_are_left_alone() -> None:
    net = nn.BatchNorm1d(4)
    average = MovingAverage(net, 0.9)
    assert set(average.tensors) == {"weight", "bias", "running_mean", "running_var"}


def test_copy_to_overwrites_the_weights() -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    MovingAverage(net, 0.9).copy_to(other)
    torch.testing.assert_close(other.weight, net.weight)


def test_decay_of_one_is_refused() -> None:
    with pytest.raises(BadInput, match="decay of MovingAverage"):
        MovingAverage(nn.Linear(1, 1), 1.0)

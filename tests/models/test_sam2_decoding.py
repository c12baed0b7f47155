"""The decoder's sums in either order are the same; the other order is taken where nobody differentiates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from percepta.models.sam2 import MaskDecoder, decoding
from tests.battery import close

HEIGHT, WIDTH = 6, 5


def decoder(depth: int = 2, heads: int = 4) -> MaskDecoder:
    torch.manual_seed(0)
    made = MaskDecoder(width=32, depth=depth, heads=heads, hidden=48, inner=32, quality_width=24, quality_depth=3)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter[0].numel(), 4) ** -0.5)
    return made.eval()


def inputs(pictures: int, prompts: int, tokens: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(pictures, 32, HEIGHT, WIDTH, generator=draw)
    places = torch.randn(1, 32, HEIGHT, WIDTH, generator=draw)
    sparse = torch.randn(prompts, tokens, 32, generator=draw)
    fine = torch.randn(pictures, 4, 4 * HEIGHT, 4 * WIDTH, generator=draw)
    return [image, places, sparse, fine, torch.randn(pictures, 8, 2 * HEIGHT, 2 * WIDTH, generator=draw)]


@pytest.mark.parametrize(("pictures", "prompts", "tokens"), [(1, 1, 2), (1, 5, 3), (3, 3, 0), (2, 2, 1)])
@pytest.mark.parametrize(("depth", "heads", "chunk"), [(2, 4, 256), (1, 1, 7), (3, 2, 8)])
def test_both_orders_agree(
    pictures: int, prompts: int, tokens: int, depth: int, heads: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", chunk)
    made, given = decoder(depth, heads), inputs(pictures, prompts, tokens)
    assert not decoding.pays(made, given[0], given[2])
    want = made(*given)
    with torch.inference_mode():
        assert decoding.pays(made, given[0], given[2])
        got = made(*given)
        for mine, theirs in zip(got, want, strict=True):
            close(mine, theirs, 1e-5)
        channels_last = [
            part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part for part in given
        ]
        close(made(*channels_last).logits, want.logits, 1e-5)


def test_one_picture_for_a_map_of_each_prompt() -> None:
    made = decoder()
    image, places, sparse, _, _ = inputs(3, 3, 2)
    *_, fine, middle = inputs(1, 1, 2)
    want = made(image, places, sparse, fine, middle)
    with torch.inference_mode():
        close(made(image, places, sparse, fine, middle).logits, want.logits, 1e-5)


def test_the_other_order_saves_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    made = MaskDecoder(width=64, depth=2, heads=2, hidden=64, inner=32, quality_width=32, quality_depth=3).eval()
    draw = torch.Generator().manual_seed(1)
    given = [torch.randn(*shape, generator=draw) for shape in ((1, 64, 16, 16), (1, 64, 16, 16), (4, 1, 64))]
    given += [torch.randn(*shape, generator=draw) for shape in ((1, 8, 64, 64), (1, 16, 32, 32))]
    counts: dict[str, Any] = {}
    monkeypatch.setattr(decoding, "runs_plain", lambda x: False)  # counting is a dispatch mode, which is watched for
    for name, pays in (("plain", lambda *_: False), ("other", decoding.pays)):
        monkeypatch.setattr(decoding, "pays", pays)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made(*given)
        counts[name] = counter.get_total_flops()
    assert counts["other"] < 0.75 * counts["plain"]


def test_training_and_other_precisions_are_plain() -> None:
    made, given = decoder(), inputs(1, 2, 2)
    with torch.no_grad():
        assert decoding.pays(made, given[0], given[2])
        assert not decoding.pays(made, given[0].double(), given[2])
        assert not decoding.pays(made, given[0], torch.zeros(1, 100, 32))
        made.train()
        assert not decoding.pays(made, given[0], given[2])

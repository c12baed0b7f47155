"""The tower of a vision-language model as an encoder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.perception_lm_tiny import chunks, tiny_model

import percepta
from percepta.errors import BadInput
from percepta.training.answering_tower import main, tower_of


@torch.no_grad()
def test_it_gives_the_patches_that_the_decoder_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks that the model keeps and no more, no last norm; nothing of projector and decoder."""
    model, pictures = tiny_model(), chunks(2)
    percepta.save(model, tmp_path / "model.safetensors")
    main([str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "tower.safetensors")
    tower = percepta.load(tmp_path / "tower.safetensors")
    (last,) = tower.intermediates(pictures, [-1])
    assert torch.equal(last, model.vision_tokens(pictures))
    assert torch.equal(tower(pictures)[:, 1:], last)
    assert len(tower.blocks) == model.config.vision.depth
    assert not [name for name in tower.state_dict() if name.startswith(("decoder", "projector", "head"))]
    main([str(tmp_path / "model.safetensors"), str(tmp_path / "half.safetensors"), "--dtype", "float16"])
    half = percepta.load(tmp_path / "half.safetensors")
    assert torch.allclose(half(pictures), tower(pictures), atol=0.02)


def test_a_change_of_the_tower_does_not_reach_the_model() -> None:
    model = tiny_model()
    with torch.no_grad():
        tower_of(model).blocks[0].mlp.expand.weight.zero_()
    assert float(model.vision.blocks[0].mlp.expand.weight.detach().abs().max()) > 0
    with pytest.raises(BadInput, match="only a vision-language model has a tower to give"):
        tower_of(model.vision)

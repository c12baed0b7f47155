"""Properties of Hiera: masks, units, positions, sizes, and what every encoder of the house must do."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import percepta
from percepta.catalog import cards
from percepta.errors import BadInput, CheckpointMismatch
from percepta.models.hiera import adopt_encoder, random_keep, table_at
from tests.battery import check_batch_invariance, check_threads, close

KEYS = Path(__file__).parents[3] / "shared" / "specs" / "keys"
SMALL = {"embed_dim": 12, "heads": 1, "stages": (1, 2, 2, 1), "image_size": (96, 64), "classes": 5}
VIDEO = SMALL | {"frames": 4}
DECODER = {"classes": None, "decoder": {"width": 16, "depth": 1, "heads": 2}}


def small(name: str = "hiera-tiny-224", **overrides):
    torch.manual_seed(0)
    model = percepta.build(name, **SMALL | overrides).eval()
    with torch.no_grad():
        for parameter in model.positions.parameters():
            parameter.normal_()
    return model


def small_video(name: str = "hiera-base-16x224", **overrides):
    return small(name, **VIDEO | overrides)


def masked(**overrides):
    return small("mae-hiera-tiny-224", **DECODER | overrides)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("file", sorted(KEYS.glob("*hiera_*_*224.json")), ids=lambda path: path.stem)
def test_every_published_key_table_loads_on_meta(file):
    table = json.loads(file.read_text())
    card = next(card for card in cards().values() if table["model"] in card.aliases)
    model = percepta.build(card.name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == table["params"] == card.parameters
    from percepta.models.hiera import layouts

    native, left = layouts(model.config)["official"].to_native(
        {key: torch.empty(shape, device="meta") for key, shape in table["keys"].items()}
    )
    assert not left
    assert {key: value.shape for key, value in native.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


def test_cards_count_their_parameters():
    for card in cards().values():
        if card.family == "hiera":
            made = percepta.build(card.name, device="meta")
            assert sum(p.numel() for p in made.parameters()) == card.parameters, card.name


@torch.no_grad()
@pytest.mark.parametrize("video", [False, True])
def test_keeping_all_units_is_the_dense_pass(video):
    model = small_video() if video else small()
    x = pictures(2, 4, 3, 96, 64) if video else pictures(2, 3, 96, 64)
    units = 2 * 6 if video else 6
    every = torch.ones(2, units, dtype=torch.bool)
    for end in model.config.stage_ends:
        (dense,), (kept,) = model.intermediates(x, [end], layout="NHWC"), model.masked_intermediates(x, every, [end])
        unit = model.config.unit_after(end)
        assert kept.shape == (2, units, *unit, model.config.widths[model.config.stage(end)])
        first = dense[:, : unit[0], : unit[1], : unit[2]] if video else dense[:, : unit[0], : unit[1]]
        close(kept[:, 0], first)


@torch.no_grad()
def test_removed_units_are_not_seen_by_kept_ones_and_cost_nothing():
    model, x = small(), pictures(2, 3, 96, 64)
    keep = random_keep(2, 6, 0.5, torch.Generator().manual_seed(2))
    assert keep.sum(1).tolist() == [3, 3]
    other = x.clone()
    hidden = (~keep).view(2, 3, 2).repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None].expand_as(x)
    other[hidden] = 7.0
    for got, want in zip(
        model.masked_intermediates(other, keep, range(6)), model.masked_intermediates(x, keep, range(6)), strict=True
    ):
        assert torch.equal(got, want)
    seen = []
    handle = model.blocks[0].mlp.register_forward_hook(lambda part, inputs, out: seen.append(inputs[0].shape))
    model.masked_intermediates(x, keep, [-1])
    handle.remove()
    assert seen == [(2, 3, 64, 12)]


@torch.no_grad()
def test_permuted_units_give_permuted_local_stages():
    model, x = small(image_size=(64, 96), patch_kernel=(4, 4), patch_padding=(0, 0)), pictures(1, 3, 64, 96)
    order = [3, 1, 5, 0, 4, 2]
    cut = x.unflatten(2, (2, 32)).unflatten(4, (3, 32)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = cut[:, order].unflatten(1, (2, 3)).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 64, 96)
    table = model.positions.spatial.view(2, 8, 3, 8, 12).permute(0, 2, 1, 3, 4).flatten(0, 1)
    twin = copy.deepcopy(model)
    shuffled = table[order].view(2, 3, 8, 8, 12).permute(0, 2, 1, 3, 4).reshape(-1, 12)
    twin.positions.spatial.copy_(shuffled)
    every = torch.ones(1, 6, dtype=torch.bool)
    for end in model.config.stage_ends[:2]:
        close(
            twin.masked_intermediates(moved, every, [end])[0], model.masked_intermediates(x, every, [end])[0][:, order]
        )


def test_softmax_is_all_that_the_official_switch_adds():
    model, x = small(), pictures(2, 3, 96, 64)
    twin = percepta.build("hiera-tiny-224", **SMALL, softmax=True)
    twin.load_state_dict(model.state_dict())
    close(twin.eval()(x), model(x).softmax(-1))
    assert torch.equal(twin.train()(x), model(x))


@torch.no_grad()
def test_layouts_layers_and_norm():
    model, x = small(), pictures(2, 3, 96, 64)
    every = model.intermediates(x, range(6))
    for wanted in ([5, 0], [-1, -3], [2]):
        for got, layer in zip(model.intermediates(x, wanted), wanted, strict=True):
            assert torch.equal(got, every[layer])
    maps = model.intermediates(x, [2], layout="NCHW")[0]
    assert maps.shape == (2, 24, 12, 8)
    assert torch.equal(maps.flatten(2).transpose(1, 2), every[2])
    normed = model.intermediates(x, 5, norm=True)[0]
    close(normed, model.norm(every[5]))
    close(model.projection(model.encode_image(x)), model(x))
    close(model.encode_image(x), model.norm(every[5].mean(1)))
    final, stages = model.forward_intermediates(x, [3, 1])
    close(final, normed)
    assert torch.equal(stages[1], maps)
    for arguments, message in (
        (([0], "NLC", True), "last stage"),
        (([6],), "0 to 5"),
        (([0], "HWC"), "layout"),
        (([0], "NCHW", False, True), "prefix=True"),
    ):
        with pytest.raises(BadInput, match=message):
            model.intermediates(x, *arguments)


@torch.no_grad()
def test_any_size_of_whole_units():
    for model in (small(), small(positions="window", background=(3, 2))):
        for height, width in ((32, 32), (64, 160), (96, 64)):
            (maps,) = model.intermediates(pictures(1, 3, height, width), [-1], layout="NCHW")
            assert maps.shape == (1, 96, height // 32, width // 32)
        with pytest.raises(BadInput, match="multiples of a mask unit"):
            model(pictures(1, 3, 96, 80))
    clip = small_video()
    assert clip(pictures(1, 6, 3, 64, 96)).shape == (1, 5)
    with pytest.raises(BadInput, match=r"\(B, T, 3, H, W\)"):
        clip(pictures(1, 3, 64, 96))


@torch.no_grad()
def test_absolute_win_positions_stay_in_step_and_interpolated_ones_do_not():
    window = small(positions="window", background=(3, 2))
    window.positions.background.zero_()
    larger = window.position_embedding(160, 128)[0]
    assert torch.equal(larger[8:16, 8:16], larger[:8, :8])
    tile = pictures(1, 3, 32, 32)
    inner = window.masked_intermediates(tile.repeat(1, 1, 5, 4), torch.ones(1, 20, dtype=torch.bool), [0])[0][0]
    close(inner[6], inner[9])  # units that do not touch the border
    plain = small()
    plain.positions.spatial.copy_(window.position_embedding(96, 64)[0].flatten(0, 1))
    stretched = table_at(plain.positions.spatial.view(24, 16, 12), (40, 32), (8, 8), "interpolate")
    assert (stretched[8:16, 8:16] - stretched[:8, :8]).abs().max() > 0.1
    close(table_at(plain.positions.spatial.view(24, 16, 12), (40, 32), (8, 8), "split"), larger, 1e-5)


@torch.no_grad()
def test_resized_models():
    model, x, larger = small(), pictures(1, 3, 96, 64), pictures(1, 3, 128, 96)
    assert torch.equal(model.resized((96, 64))(x), model(x))
    close(model.resized((128, 96))(larger), model(larger))
    assert (model.resized((128, 96), rule="interpolate")(larger) - model(larger)).abs().max() > 1e-5
    converted = model.resized((128, 96), rule="absolute-win")
    assert converted.config.positions == "window"
    assert converted.config.background == (3, 2)
    assert converted(pictures(1, 3, 32, 192)).shape == (1, 5)
    clip = small_video().resized((64, 64), frames=8)
    assert clip.config.sides == (8, 64, 64)
    assert clip(pictures(1, 8, 3, 64, 64)).shape == (1, 5)
    auto = masked().resized((64, 64))
    assert torch.isfinite(auto.pretrain(pictures(2, 3, 64, 64), random_keep(2, 4, 0.5)).loss)
    with pytest.raises(BadInput, match="rule"):
        model.resized(64, rule="bilinear")


@torch.no_grad()
def test_masked_pre_training():
    model, x = masked(), pictures(2, 3, 96, 64)
    keep = random_keep(2, 6, 0.6, torch.Generator().manual_seed(0))
    made = model.pretrain(x, keep)
    assert made.latent.shape == (2, 2, 2, 2, 96)
    assert made.mask.shape == (2, 24)
    assert made.mask.sum().item() == 2 * 2 * 4
    assert made.prediction.shape == made.target.shape == (32, 768)
    close(made.loss, (made.prediction - made.target).square().mean(), 1e-6)
    grey = model.pretrain(torch.full((2, 3, 96, 64), 0.3), keep)
    close(grey.loss, grey.prediction.square().mean(), 1e-5)
    shown = model.reconstruct(x, keep)
    kept = made.mask.view(2, 6, 4).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].expand_as(x)
    close(shown[kept], x[kept])
    assert (shown - x)[~kept].abs().mean() > 0.1
    for mask, message in ((keep[:1], "bool mask"), (torch.tensor([[True] * 6, [False] * 5 + [True]]), "equally many")):
        with pytest.raises(BadInput, match=message):
            model.pretrain(x, mask)
    with pytest.raises(BadInput, match="no decoder"):
        small().pretrain(x, keep)


@torch.no_grad()
def test_masked_pre_training_of_videos():
    model = small_video("mae-hiera-base-16x224", **DECODER)
    x = pictures(2, 4, 3, 96, 64)
    keep = random_keep(2, 12, 0.9, torch.Generator().manual_seed(0))
    made = model.pretrain(x, keep)
    assert made.latent.shape == (2, 1, 1, 2, 2, 96)
    shown = model.reconstruct(x, keep)
    assert shown.shape == (2, 2, 3, 96, 64)
    every = model.reconstruct(x, torch.ones(2, 12, dtype=torch.bool))
    close(every, x[:, ::2])


def test_a_masked_autoencoder_learns():
    torch.manual_seed(0)
    model = percepta.build("mae-hiera-nano")
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    rows = torch.linspace(-1, 1, 32)
    losses = []
    for step in range(40):
        phase = torch.rand(16, 1, 1, 1, generator=torch.Generator().manual_seed(step)) * 6
        x = torch.sin(6 * (rows[None, None, :, None] + rows[None, None, None, :]) + phase).expand(-1, 3, -1, -1)
        loss = model.pretrain(x, random_keep(16, 16, 0.6, torch.Generator().manual_seed(step))).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_fine_tuning_adopts_the_encoder_and_refuses_another():
    source, model = masked(), small()
    adopt_encoder(model, source)
    assert torch.equal(model.blocks[3].mlp.expand.weight, source.blocks[3].mlp.expand.weight)
    assert torch.equal(model.positions.spatial, source.positions.spatial)
    with pytest.raises(BadInput, match="such as"):
        adopt_encoder(small(embed_dim=24), source)


def test_initial_values():
    model = percepta.build("hiera-tiny-224", **SMALL)
    assert (model.norm.bias == 0.02).all()
    assert (model.blocks[0].attention.qkv.bias == 0.02).all()
    assert model.projection.bias.abs().max() < 1e-4
    auto = percepta.build("mae-hiera-tiny-224", **SMALL | DECODER)
    assert (auto.blocks[0].norm1.bias == 0).all()
    assert (auto.blocks[0].attention.qkv.bias == 0).all()


@pytest.mark.parametrize("kind", ["picture", "video", "masked", "window"])
def test_round_trip_in_every_layout(kind, tmp_path):
    from percepta.models.hiera import layouts

    model = {
        "picture": small,
        "video": small_video,
        "masked": masked,
        "window": lambda: small("hiera-small-abswin-256", background=(3, 2)),
    }[kind]()
    for layout in ("native", *layouts(model.config)):
        path = percepta.save(model, tmp_path / f"{layout}.safetensors", layout=layout)
        again = percepta.load(tmp_path / "native.safetensors", weights=path)
        assert again.config == model.config
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), (layout, key)
    with pytest.raises(CheckpointMismatch, match="misshapen"):
        percepta.load(tmp_path / "native.safetensors", classes=9) if kind != "masked" else percepta.load(
            tmp_path / "native.safetensors", image_size=(32, 32)
        )


@torch.no_grad()
def test_what_every_encoder_does():
    model = small(image_size=(32, 32))
    check_batch_invariance(small(unit=(4, 4), q_pool=2, image_size=(32, 32)))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for shape in ((2, 3, 32, 32), (1, 3, 64, 32)):
        close(compiled(pictures(*shape)), model(pictures(*shape)))
    ragged = [pictures(3, 32, 32), pictures(3, 64, 32)]
    for got, picture in zip(model(ragged), ragged, strict=True):
        close(got, model(picture[None])[0])
    for entries in model.intermediates(ragged, [0, 5]):
        assert len(entries) == 2
    x = pictures(2, 3, 32, 64)
    (want,) = model.intermediates(x, [-1])
    (got,) = copy.deepcopy(model).to(torch.bfloat16).intermediates(x.bfloat16(), [-1])
    assert (got.float() - want).norm() / want.norm() < 3e-2


@torch.no_grad()
def test_threads_share_a_model():
    class Tower(torch.nn.Module):
        """Sizes of the shared check, in whole units."""

        def __init__(self):
            super().__init__()
            self.model = percepta.build("hiera-nano").eval()

        def forward(self, x):
            return self.model(x)

    check_threads(Tower().eval())


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        model = small().train()
        model.set_grad_checkpointing(enable)
        model(pictures(2, 3, 96, 64)).square().mean().backward()
        gradients.append(model.blocks[0].mlp.expand.weight.grad)
    close(gradients[1], gradients[0], 1e-6)
    assert gradients[0].abs().max() > 0


@torch.no_grad()
def test_kept_positions_follow_their_parameters():
    model, x = small(), pictures(1, 3, 96, 64)
    before = model(x)
    assert torch.equal(model(x), before)
    model.positions.spatial.data.mul_(2.0)
    assert not torch.equal(model(x), before)
    larger = model(pictures(1, 3, 128, 64))
    model.positions.rule = "interpolate"
    assert not torch.equal(model(pictures(1, 3, 128, 64)), larger)


def test_merging_is_refused():
    with pytest.raises(BadInput, match="token merging does not fit Hiera"):
        percepta.merge_tokens(small(), r=2)


def test_configs_that_cannot_be():
    for overrides, message in (
        ({"unit": (6, 6)}, "cannot be pooled"),
        ({"image_size": 100}, "multiples of a mask unit"),
        ({"q_pool": 4}, "q_pool"),
        ({"positions": "separate"}, "for videos"),
        ({"local": (True,)}, "one entry per stage"),
        ({"shortcut": "none"}, "shortcut"),
        ({"decoder": {}}, "head or a decoder"),
    ):
        with pytest.raises(BadInput, match=message):
            percepta.build("hiera-tiny-224", device="meta", **{"classes": 5, **overrides})

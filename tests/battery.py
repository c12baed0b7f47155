"""One shared check for every encoder: a new model gets all of it by one line in a list."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

import percepta
from percepta.layers import Tokens, grid_angles
from percepta.speedups import STRATEGIES


def small(name: str, **overrides: Any) -> Any:
    """The architecture of a name, small enough for tests, with seeded weights, in evaluation mode."""
    torch.manual_seed(0)
    card = percepta.describe(name)
    settings: dict[str, Any] = {"depth": 3, "width": 48, "heads": 3, "patch_size": 8, "image_size": 32}
    settings |= {"pooling_heads": 4, "mlp_ratio": 2.0}
    if "output_dim" in card.config:
        settings["output_dim"] = 24
    if "text" in card.config:
        settings["text"] = {"width": 32, "heads": 2, "depth": 2}
    return percepta.build(name, **settings | overrides).eval()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


def check_encoder(name: str, folder: Path) -> None:
    """All checks below, in order."""
    model = small(name)
    check_sizes(model)
    check_layers(model)
    check_batch_invariance(model)
    check_mixed_sizes(model)
    check_state_dict_round_trip(model, name, folder)
    check_meta_build(name)
    check_bfloat16(name)
    check_gradient_checkpointing(name)
    check_compiles_without_graph_breaks(model)
    check_threads(model)
    check_seam(model)
    check_merging(model)
    check_merging_in_training(name)


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def check_sizes(model: Any) -> None:
    for height, width in ((32, 32), (8, 8), (40, 24), (37, 50)):
        (patches,) = model.intermediates(pictures(2, 3, height, width), [-1])
        assert patches.shape == (2, (height // 8) * (width // 8), model.config.width)
        assert torch.isfinite(patches).all()
    cut = model.intermediates(pictures(1, 3, 37, 50)[..., :32, :48], [-1])[0]
    close(model.intermediates(pictures(1, 3, 37, 50), [-1])[0], cut)


@torch.no_grad()
def check_layers(model: Any) -> None:
    x = pictures(2, 3, 24, 40)
    tower = getattr(model, "vision", model)
    every = model.intermediates(x, [0, 1, 2])
    for wanted in ([2, 0], [-1, -3], [1]):
        for got, layer in zip(model.intermediates(x, wanted), wanted, strict=True):
            assert torch.equal(got, every[layer])
    close(tower.truncated(1).intermediates(x, [-1])[0], every[1], 0.0)
    maps = model.intermediates(x, [1], layout="NCHW")[0]
    assert maps.shape == (2, model.config.width, 3, 5)
    assert torch.equal(maps.flatten(2).transpose(1, 2), every[1])
    assert torch.equal(model.intermediates(x, [1], layout="NHWC")[0].flatten(1, 2), every[1])
    assert torch.equal(model.intermediates(x, 1)[0], every[1])
    final, (third, second) = model.forward_intermediates(x, [2, 1])
    assert torch.equal(second, maps)
    assert third.shape == maps.shape
    close(final, model.intermediates(x, [2], norm=True, prefix=True)[0], 0.0)
    with_prefix = model.intermediates(x, [1], prefix=True)[0]
    assert torch.equal(with_prefix[:, model.config.prefix :], every[1])


@torch.no_grad()
def check_batch_invariance(model: Any) -> None:
    x = pictures(3, 3, 32, 48)
    tower = getattr(model, "vision", model)
    whole = tower(x)
    assert torch.equal(whole, tower(x))
    for index in range(3):
        close(tower(x[index : index + 1])[0], whole[index])


@torch.no_grad()
def check_mixed_sizes(model: Any) -> None:
    tower = getattr(model, "vision", model)
    ragged = [pictures(3, 32, 32), pictures(3, 16, 40), pictures(3, 32, 32) * 0.5]
    for got, picture in zip(tower(ragged), ragged, strict=True):
        close(got, tower(picture[None])[0])
    for layer, entries in zip([0, 2], model.intermediates(ragged, [0, 2]), strict=True):
        for got, picture in zip(entries, ragged, strict=True):
            close(got, model.intermediates(picture[None], [layer])[0][0])


def check_state_dict_round_trip(model: Any, name: str, folder: Path) -> None:
    from percepta.running.loading import family_of

    overrides = {key: getattr(model.config, key) for key in ("depth", "width", "heads", "patch_size", "image_size")}
    overrides |= {key: getattr(model.config, key) for key in ("pooling_heads", "mlp_ratio", "output_dim")}
    if model.config.text is not None:
        overrides["text"] = {"width": 32, "heads": 2, "depth": 2}
    for layout in ("native", *family_of(model).layouts(model.config)):
        path = percepta.save(model, folder / f"{name}-{layout}.safetensors", layout=layout)
        loaded = percepta.load(name, weights=path, **overrides)
        for key, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key]), (layout, key)
    again = percepta.load(folder / f"{name}-native.safetensors")
    assert again.config == model.config


def check_meta_build(name: str) -> None:
    model = percepta.build(name, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    x = torch.empty(1, 3, 2 * model.config.patch_size, 3 * model.config.patch_size, device="meta")
    assert model.intermediates(x, [-1])[0].shape == (1, 6, model.config.width)


@torch.no_grad()
def check_bfloat16(name: str) -> None:
    model = small(name)
    x = pictures(2, 3, 32, 40)
    (want,) = model.intermediates(x, [-1])
    (got,) = model.to(torch.bfloat16).intermediates(x.bfloat16(), [-1])
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() / want.norm() < 2e-2


def check_gradient_checkpointing(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = small(name).train()
        model.set_grad_checkpointing(enable)
        tower = getattr(model, "vision", model)
        tower(pictures(2, 3, 32, 40)).square().mean().backward()
        gradients.append(tower.blocks[0].mlp.expand.weight.grad)
    close(gradients[1], gradients[0], 1e-6)
    assert gradients[0].abs().max() > 0


@torch.no_grad()
def check_compiles_without_graph_breaks(model: Any) -> None:
    tower = getattr(model, "vision", model)
    torch._dynamo.reset()
    compiled = torch.compile(tower, backend="eager", fullgraph=True)
    for shape in ((2, 3, 32, 32), (1, 3, 24, 48)):
        close(compiled(pictures(*shape)), tower(pictures(*shape)))


@torch.no_grad()
def check_threads(model: Any) -> None:
    """One tower, many threads, other sizes: no hidden state is shared."""
    tower = getattr(model, "vision", model)
    inputs = [pictures(1, 3, 16 + 8 * (i % 4), 24 + 8 * (i % 3)) for i in range(12)]
    want = [tower(x) for x in inputs]
    got: list[Any] = [None] * len(inputs)

    def work(start: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                for index in range(start, len(inputs), 4):
                    got[index] = tower(inputs[index])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def check_fewer_tokens(tower: Any, x: torch.Tensor) -> None:
    """A policy that drops tokens after the first attention: later blocks rotate what is left at its own places."""
    prefix = tower.config.prefix

    def halve(tokens: Tokens, keys: torch.Tensor) -> Tokens:
        kept = [*range(prefix), *range(prefix, tokens.x.shape[1], 2)]
        return Tokens(tokens.x[:, kept], torch.ones(len(x), len(kept)), tokens.position[:, kept])

    (short,), _ = tower._run(x, [-1], [halve, None, None])
    tokens, (rows, columns) = tower.embed(x)
    angles = grid_angles(rows, columns, tower.config.width // tower.config.heads, prefix)
    by_hand = tower.blocks[0](
        Tokens(tokens), angles, lambda t, _: Tokens(torch.cat([t.x[:, :prefix], t.x[:, prefix::2]], 1))
    )
    angles = torch.cat([angles[:prefix], angles[prefix::2]])
    for block in tower.blocks[1:]:
        by_hand = block(by_hand, angles)
    close(short.x, by_hand.x)


@torch.no_grad()
def check_seam(model: Any) -> None:
    """The seam is empty by default, and a policy that changes nothing gives equal bits."""
    tower = getattr(model, "vision", model)
    x = pictures(2, 3, 32, 32)
    seen = []

    def keep(tokens: Any, keys: torch.Tensor) -> Any:
        seen.append((tokens.x.shape, keys.shape))
        return tokens

    (plain,), _ = tower._run(x, [-1])
    (passed,), _ = tower._run(x, [-1], [keep] * tower.config.depth)
    assert torch.equal(plain.x, passed.x)
    assert plain.size is None
    check_fewer_tokens(tower, x)
    heads, count = tower.config.heads, 16 + tower.config.prefix
    assert seen == [((2, count, 48), (2, heads, count, 48 // heads))] * 3


@torch.no_grad()
def check_merging(model: Any) -> None:
    """Merging on and off, by every strategy: fewer tokens, dense maps of the old size."""
    tower = getattr(model, "vision", model)
    x = pictures(2, 3, 32, 40)
    plain, (patches,) = tower(x), tower.intermediates(x, [-1])
    for strategy in STRATEGIES:
        with percepta.merge_tokens(model, r=3, strategy=strategy, last_block=True) as merging:
            tokens = merging.trace(x)
            assert tokens.x.shape[1] == 20 + tower.config.prefix - 9
            assert torch.equal(tokens.size.sum(dim=1), torch.full((2,), 20.0 + tower.config.prefix))
            assert tower(x).shape == plain.shape
            assert not torch.equal(tower.intermediates(x, [-1])[0], patches)
            assert tower.intermediates(x, [-1])[0].shape == patches.shape
            close(tower(x[1:])[0], tower(x)[1])
        assert torch.equal(tower(x), plain)
    with percepta.merge_tokens(model, r=3):
        torch._dynamo.reset()
        close(torch.compile(tower, backend="eager", fullgraph=True)(x), tower(x))


def check_merging_in_training(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = small(name).train()
        model.set_grad_checkpointing(enable)
        tower = getattr(model, "vision", model)
        percepta.merge_tokens(model, r=3)
        tower(pictures(2, 3, 32, 40)).square().mean().backward()
        gradients.append(tower.blocks[0].mlp.expand.weight.grad)
    close(gradients[1], gradients[0], 1e-6)
    assert gradients[0].abs().max() > 0

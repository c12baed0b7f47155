"""Prepared models: the same outputs, the same tables, and everything that can be done with a plain model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import percepta
from percepta.errors import BadInput
from percepta.layers.chunked import PreparedAttention
from percepta.layers.packed import PackedLinear, PackedMlp, missing
from percepta.running import machine, preparing
from percepta.running.fingerprint import made_with
from percepta.running.preparing import is_prepared, precision_of, prepare, summary, unprepare
from percepta.speedups import merge_tokens
from percepta.speedups.hydra import hydra_attention
from tests.battery import pictures, small

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"packed weights: {missing()}")
NAMES = ("pe-core-t16-384", "pe-core-b16-224", "pe-core-l14-336", "pe-lang-l14-448", "pe-spatial-t16-512")


def packed(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """The choice of every test here, so that none depends on the machine's clock."""
    return "heads" if kind == "attention" else "packed"


def ready(model: Any) -> Any:
    return prepare(model, choose=packed)


def apart(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@torch.no_grad()
def run(model: Any, x: Tensor) -> Tensor:
    output = model(x)
    if hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    return output[0] if isinstance(output, tuple) else output


def timm_model(name: str, **settings: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, img_size=32, depth=2, num_classes=5, **settings).eval()
    return model


def transformers_model(kind: str, **settings: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, **settings
    )
    model: nn.Module = getattr(transformers, f"{kind}Model")(config).eval()
    return model


FOREIGN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "timm vit": (lambda: timm_model("vit_tiny_patch16_224"), 2),
    "timm deit": (lambda: timm_model("deit_tiny_patch16_224"), 2),
    "timm eva": (lambda: timm_model("eva02_tiny_patch14_224", patch_size=16), 0),  # SwiGLU: its linear layers alone
    "timm pe": (lambda: timm_model("vit_pe_core_tiny_patch16_384"), 3),  # the pool's too
    "ViT": (lambda: transformers_model("ViT", intermediate_size=96), 2),
    "CLIP quick GELU": (lambda: transformers_model("CLIPVision", intermediate_size=96), 0),  # no fused kernel
    "CLIP": (lambda: transformers_model("CLIPVision", intermediate_size=96, hidden_act="gelu"), 2),
    "SigLIP": (lambda: transformers_model("SiglipVision", intermediate_size=96), 3),
    "DINOv2": (lambda: transformers_model("Dinov2", mlp_ratio=2), 2),
}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_encoder_gives_the_same(name: str) -> None:
    model, x = small(name), pictures(2, 3, 40, 24)
    plain = copy.deepcopy(model)
    assert ready(model) is model
    assert apart(run(getattr(model, "vision", model), x), run(getattr(plain, "vision", plain), x)) < 1e-6
    for got, want in zip(model.intermediates(x, [0, -1]), plain.intermediates(x, [0, -1]), strict=True):
        assert apart(got, want) < 1e-6
    if hasattr(model, "encode_text"):
        tokens = model.tokenize(["a cat", "two dogs on a red sofa"])
        assert apart(model.encode_text(tokens), plain.encode_text(tokens)) < 1e-6
        assert apart(model.truncated(1).encode_image(x), plain.truncated(1).encode_image(x)) < 1e-6
    kinds = {type(part) for part in model.modules()}
    assert {PackedLinear, PackedMlp, PreparedAttention} <= kinds
    used = [part for part in model.modules() if isinstance(part, PackedLinear) and part.packing is not None]
    assert len(used) >= 3 * 4


@pytest.mark.parametrize("which", FOREIGN)
def test_models_of_other_libraries_give_the_same(which: str) -> None:
    make, mlps = FOREIGN[which]
    model, x = make(), pictures(2, 3, 32, 32)
    want, before = run(model, x), list(model.modules())
    ready(model)
    assert apart(run(model, x), want) < 1e-5
    assert sum(isinstance(part, PackedMlp) for part in model.modules()) == mlps
    assert sum(isinstance(part, PackedLinear) for part in model.modules()) >= 8
    unprepare(model)
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    assert torch.equal(run(model, x), want)


def test_unprepare_gives_the_very_same_modules_back() -> None:
    model, x = small("pe-core-b16-224"), pictures(1, 3, 32, 32)
    before, tables = list(model.named_modules()), list(model.state_dict(keep_vars=True).items())
    want = run(model.vision, x)
    for _ in range(2):
        ready(model)
        assert is_prepared(model)
        assert [(name, value) for name, value in model.state_dict(keep_vars=True).items()] == tables
        assert [name for name, _ in model.named_modules()] == [name for name, _ in before]
    run(model.vision, x)
    assert unprepare(model) is model
    assert not is_prepared(model)
    assert all(a is b for (_, a), (_, b) in zip(model.named_modules(), before, strict=True))
    assert torch.equal(run(model.vision, x), want)
    unprepare(model)
    assert all("packing" not in part.__dict__ for part in model.modules())


def test_it_is_copied_pickled_and_saved_like_a_plain_one(tmp_path: Path) -> None:
    plain, x = percepta.load("pe-core-nano"), pictures(1, 3, 64, 64)
    model = ready(copy.deepcopy(plain))
    want = run(model.vision, x)
    assert apart(run(copy.deepcopy(model).vision, x), want) < 1e-6
    assert apart(run(pickle.loads(pickle.dumps(model.vision)), x), want) < 1e-6
    percepta.save(model, tmp_path / "a.safetensors")
    again = percepta.load(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(value, again.pop(name)) for name, value in plain.state_dict().items())
    assert not again
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    assert made_with(model) == made_with(plain)


def test_it_trains_like_a_plain_one() -> None:
    plain, x = small("pe-core-b16-224").vision, pictures(2, 3, 32, 32)
    model = ready(copy.deepcopy(plain))
    run(model, x)
    for each in (model, plain):
        each.train()
        optimiser = torch.optim.SGD(each.parameters(), lr=0.1)
        each(x).square().mean().backward()
        optimiser.step()
        each.eval()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert apart(run(model, x), run(plain, x)) < 1e-6  # packed anew


def test_it_moves_exports_and_compiles_like_a_plain_one() -> None:
    plain, x = small("pe-core-b16-224").vision, pictures(2, 3, 32, 32)
    model = ready(copy.deepcopy(plain))
    want = run(model, x)
    model.to(torch.float64)
    assert apart(run(model, x.double()), run(copy.deepcopy(plain).double(), x.double())) < 1e-12
    assert all(part.packing is None for part in model.modules() if isinstance(part, PackedLinear))
    model.float()
    assert apart(run(model, x), want) < 1e-6
    assert model.to("meta").patches.weight.is_meta
    model = ready(copy.deepcopy(plain))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert apart(run(compiled, x), want) < 1e-6
    exported = torch.export.export(model, (x,))
    assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)
    assert apart(run(exported.module(), x), want) < 1e-6


@pytest.mark.parametrize("which", ["ours", "timm vit", "CLIP"])
def test_merged_tokens_and_prepared_parts_in_both_orders(which: str) -> None:
    x = pictures(2, 3, 32, 32)
    results = {}
    for order in ("merge", "merge prepare", "prepare merge"):
        torch.manual_seed(0)
        model = small("pe-core-b16-224").vision if which == "ours" else FOREIGN[which][0]()
        for step in order.split():
            if step == "merge":
                merge_tokens(model, r=1)
            else:
                ready(model)
        results[order] = run(model, x)
        assert is_prepared(model) == ("prepare" in order)
    merged = results.pop("merge")
    for order, result in results.items():
        assert apart(result, merged) < 1e-5, order
    torch.manual_seed(0)
    whole = small("pe-core-b16-224").vision if which == "ours" else FOREIGN[which][0]()
    assert apart(run(whole, x), merged) > 1e-4  # something was merged


@pytest.mark.parametrize("which", ["ours", "timm vit"])
def test_hydra_attention_and_prepared_parts_in_both_orders(which: str) -> None:
    x = pictures(2, 3, 32, 32)
    make = (lambda: small("pe-core-b16-224").vision) if which == "ours" else FOREIGN[which][0]
    plain = make()
    before = run(plain, x)
    hydra_attention(plain, "back:1")
    want = run(plain, x)
    first = ready(make())
    conversion = hydra_attention(first, "back:1")
    assert apart(run(first, x), want) < 1e-6
    conversion.remove()
    assert apart(run(first, x), before) < 1e-6
    second = make()
    conversion = hydra_attention(second, "back:1")
    ready(second)
    assert apart(run(second, x), want) < 1e-6
    unprepare(second)
    conversion.remove()
    assert torch.equal(run(second, x), before)


def test_a_shared_module_stays_one_and_a_hook_or_own_forward_is_kept() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, shared, nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    model[2].forward = lambda x: x
    model[3].register_forward_pre_hook(lambda module, given: None)
    x = torch.randn(3, 8)
    want = run(model, x)
    ready(model)
    assert model[0] is model[1]
    assert [isinstance(part, PackedLinear) for part in model] == [True, True, False, False]
    assert apart(run(model, x), want) < 1e-6


class Odd(nn.Module):
    """An MLP under a known name that does something else with its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)) * 1.01)


def test_a_foreign_part_that_is_not_what_its_name_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "FOREIGN_MLPS", {f"{__name__}.Odd"})
    model, x = nn.Sequential(Odd()).eval(), torch.randn(3, 8)
    want = run(model, x)
    ready(model)
    assert type(model[0]) is Odd
    assert isinstance(model[0].fc1, PackedLinear)
    assert apart(run(model, x), want) < 1e-6


def test_a_model_with_its_weights_elsewhere_or_frozen_or_in_inference() -> None:
    model = ready(percepta.build("pe-core-nano", device="meta").eval())
    assert is_prepared(model)
    assert model.state_dict()["logit_scale"].is_meta
    frozen = ready(small("pe-core-b16-224").vision.requires_grad_(False))
    x = pictures(1, 3, 32, 32)
    assert torch.isfinite(frozen(x)).all()
    with torch.inference_mode():
        assert apart(frozen(x), run(unprepare(frozen), x)) < 1e-6


def test_where_nothing_can_be_packed_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "missing", lambda dtype=torch.float32: "this torch is built without oneDNN")
    model = prepare(small("pe-core-b16-224"), "bfloat16")
    assert not is_prepared(model)
    assert summary(model) == "nothing prepared (this torch is built without oneDNN)"


def test_bfloat16_falls_back_to_float32_where_it_is_missing_or_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("pe-core-b16-224")
    monkeypatch.setattr(preparing, "missing", lambda dtype=torch.float32: "no" if dtype == torch.bfloat16 else "")
    assert precision_of(prepare(model, "bfloat16", choose=packed)) == torch.float32
    monkeypatch.setattr(preparing, "missing", lambda dtype=torch.float32: "")
    slow = prepare(model, "bfloat16", choose=lambda kind, *_: "plain" if kind == "precision" else packed(kind, *_))
    assert precision_of(slow) == torch.float32
    low = prepare(model, "bfloat16", choose=packed)
    assert precision_of(low) == torch.bfloat16
    assert made_with(low)["dtype"] == "bfloat16"
    assert {parameter.dtype for parameter in low.parameters()} == {torch.float32}
    pool = [part.precision for part in low.vision.pool.modules() if isinstance(part, PackedLinear)]
    assert pool
    assert set(pool) == {None}


@pytest.mark.skipif(bool(missing(torch.bfloat16)), reason=f"packed bfloat16: {missing(torch.bfloat16)}")
def test_bfloat16_stays_close() -> None:
    model, x = percepta.load("pe-core-nano"), pictures(4, 3, 64, 64)
    want = run(model.vision, x)
    prepare(model, "bfloat16", choose=packed)
    got = run(model.vision, x)
    assert got.dtype == torch.float32
    assert torch.cosine_similarity(got, want).min() > 0.9995
    assert apart(got, want) > 1e-5


def test_load_prepares_on_request_alone() -> None:
    assert not is_prepared(percepta.load("pe-core-nano"))
    model = percepta.load("pe-core-nano", prepare=True)
    assert is_prepared(model)
    assert summary(model).endswith("prepared, in float32")
    assert not is_prepared(percepta.load("pe-core-nano", dtype="float16", prepare=True))
    assert not is_prepared(percepta.load("pe-core-nano", device="meta", prepare=True))


@pytest.mark.parametrize("fast", [True, False])
def test_load_in_bfloat16_is_bfloat16(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(preparing, "missing", lambda dtype=torch.float32: "")
    monkeypatch.setattr(preparing, "fastest", lambda kind, shape, dtype: "packed" if fast else "plain")
    model = percepta.load("pe-core-nano", dtype="bfloat16", prepare=True)
    assert precision_of(model) == torch.bfloat16
    assert is_prepared(model) == fast
    assert model.logit_scale.dtype == (torch.float32 if fast else torch.bfloat16)


def test_what_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="float16"):
        prepare(nn.Linear(2, 2), "float16")
    with pytest.raises(BadInput, match="allocator"):
        prepare(nn.Linear(2, 2), allocator="jemalloc")
    asked = []
    monkeypatch.setattr(machine, "tune_allocator", lambda: asked.append("tuned"))
    prepare(nn.Sequential(nn.Linear(2, 2)))
    assert not asked
    prepare(nn.Sequential(nn.Linear(2, 2)), allocator="tuned")
    assert asked == ["tuned"]

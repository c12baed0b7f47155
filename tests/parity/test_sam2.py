"""SAM 2 against transformers' Sam2Model and Sam2VideoModel, small, on the same weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import percepta
from percepta.models.sam2 import Recollection
from percepta.models.sam2.keys_transformers import transformers as names
from tests.battery import close, pictures

transformers = pytest.importorskip("transformers")

SIDE, WIDTH, MEMORY = 128, 128, 64  # transformers always has memories of 64 channels
TRUNK = {
    "embed_dim": 16,
    "heads": 1,
    "stages": (1, 2, 3, 1),
    "windows": (8, 4, 6, 3),
    "global_blocks": (4,),
    "background": (5, 5),
}
OURS = {
    "image_size": SIDE,
    "trunk": TRUNK,
    "width": WIDTH,
    "decoder_heads": 2,
    "decoder_hidden": 48,
    "decoder_inner": WIDTH // 2,
    "quality_width": 24,
    "memory_width": MEMORY,
    "memory_layers": 2,
    "memory_hidden": 40,
}


def peer_config() -> dict[str, Any]:
    """The same sizes in transformers' words."""
    stages = range(4)
    vision = {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 16,
            "image_size": [SIDE, SIDE],
            "blocks_per_stage": [1, 2, 3, 1],
            "embed_dim_per_stage": [16 * 2**stage for stage in stages],
            "num_attention_heads_per_stage": [2**stage for stage in stages],
            "window_size_per_stage": [8, 4, 6, 3],
            "global_attention_blocks": [4],
            "window_positional_embedding_background_size": [5, 5],
        },
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[SIDE // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": WIDTH,
    }
    decoder = {"hidden_size": WIDTH, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 24}
    prompts = {"hidden_size": WIDTH, "image_size": SIDE}
    return {"vision_config": vision, "mask_decoder_config": decoder, "prompt_encoder_config": prompts}


@torch.no_grad()
def stir(peer: torch.nn.Module) -> None:
    """Random weights under which every part matters."""
    for name, parameter in peer.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=max(parameter[0].numel(), 1) ** -0.5)
        else:
            parameter.normal_(mean=float("weight" in name or "scale" in name), std=0.1)
    positions = peer.get_buffer("prompt_encoder.shared_embedding.positional_embedding")
    peer.get_buffer("shared_image_embedding.positional_embedding").copy_(positions)


@functools.cache
def both(version: str = "sam2.1") -> tuple[Any, Any]:
    """transformers' video model and ours, with the same weights."""
    torch.manual_seed(0)
    config = transformers.Sam2VideoConfig(
        **peer_config(),
        image_size=SIDE,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=40,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=MEMORY,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=4 * WIDTH,
        enable_occlusion_spatial_embedding=version == "sam2.1",
        enable_temporal_pos_encoding_for_object_pointers=version == "sam2.1",
    )
    peer = transformers.Sam2VideoModel(config).eval()
    stir(peer)
    ours = percepta.build(f"{version}-hiera-tiny", **OURS).eval()
    native, unknown = names(ours.config).to_native(peer.state_dict())
    assert not unknown
    ours.load_state_dict(native, strict=True)
    return peer, ours


@functools.cache
def picture_model() -> Any:
    """transformers' model for pictures, filled from its video model."""
    video, _ = both()
    peer = transformers.Sam2Model(transformers.Sam2Config(**peer_config())).eval()
    state = {name: value for name, value in video.state_dict().items() if name in peer.state_dict()}
    peer.load_state_dict(state, strict=True)
    return peer


@pytest.mark.parametrize("version", ["sam2.1", "sam2"])
def test_names_go_both_ways(version: str) -> None:
    peer, ours = both(version)
    state = names(ours.config).to_foreign(ours.state_dict())
    assert set(state) == set(peer.state_dict())
    for name, value in peer.state_dict().items():
        assert torch.equal(state[name], value), name


def test_a_saved_folder_loads_and_goes_back(tmp_path: Path) -> None:
    peer, ours = both()
    peer.save_pretrained(tmp_path / "peer")
    loaded = percepta.load("sam2.1-hiera-tiny", weights=tmp_path / "peer", **OURS)
    for name, value in ours.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    written = percepta.save(loaded, tmp_path / "back.pt", layout="transformers")
    back = torch.load(written, weights_only=True)
    peer.load_state_dict(back, strict=True)


def test_names_of_the_published_sizes() -> None:
    for version, more in (("sam2.1", True), ("sam2", False)):
        with torch.device("meta"):
            peer = transformers.Sam2VideoModel(
                transformers.Sam2VideoConfig(
                    enable_occlusion_spatial_embedding=more, enable_temporal_pos_encoding_for_object_pointers=more
                )
            )
        ours = percepta.build(f"{version}-hiera-tiny", device="meta")
        state = names(ours.config).to_foreign(ours.state_dict())
        assert {name: value.shape for name, value in state.items()} == {
            name: value.shape for name, value in peer.state_dict().items()
        }


def test_a_checkpoint_with_one_copy_of_the_frequencies() -> None:
    peer, ours = both()
    state = dict(peer.state_dict())
    for name in ("prompt_encoder.shared_embedding.positional_embedding", "shared_image_embedding.positional_embedding"):
        native, unknown = names(ours.config).to_native({key: value for key, value in state.items() if key != name})
        assert not unknown
        assert set(native) == set(ours.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_image_encoder(batch: int) -> None:
    peer, (_, ours) = picture_model(), both()
    x = pictures(batch, 3, SIDE, SIDE)
    want = peer.get_image_embeddings(x)
    features = ours.encode_image(x)
    for got, expected in zip((features.fine, features.middle, ours.unconditioned(features)), want, strict=True):
        close(got, expected, 1e-5)


CLICKS = torch.tensor([[[20.0, 30.0], [90.0, 64.0]], [[50.0, 100.0], [3.0, 5.0]], [[64.0, 64.0], [100.0, 20.0]]])
KINDS = torch.tensor([[1, 0], [1, 1], [0, 1]])
BOXES = torch.tensor([[10.0, 12.0, 90.0, 70.0], [40.0, 30.0, 120.0, 127.0], [0.0, 0.0, 20.0, 20.0]])


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", ["points", "boxes", "both"])
def test_prompts_on_one_picture(kind: str, multimask: bool) -> None:
    peer, (_, ours) = picture_model(), both()
    x = pictures(1, 3, SIDE, SIDE)
    clicked, boxed = kind != "boxes", kind != "points"
    want = peer(
        pixel_values=x,
        input_points=CLICKS[None] if clicked else None,
        input_labels=KINDS[None] if clicked else None,
        input_boxes=BOXES[None] if boxed else None,
        multimask_output=multimask,
    )
    got = ours.predict(
        ours.encode_image(x),
        points=CLICKS if clicked else None,
        labels=KINDS if clicked else None,
        boxes=BOXES if boxed else None,
        multimask=multimask,
    )
    close(got.logits, want.pred_masks[0], 1e-5)
    close(got.iou, want.iou_scores[0], 1e-5)
    close(got.object_score, want.object_score_logits[0], 1e-5)


@torch.no_grad()
def test_prompts_on_two_pictures_at_once() -> None:
    peer, (_, ours) = picture_model(), both()
    x = pictures(2, 3, SIDE, SIDE)
    want = peer(pixel_values=x, input_points=CLICKS[:2, None], input_labels=KINDS[:2, None])
    features = ours.encode_image(x)
    got = ours.predict(features, points=CLICKS[:2], labels=KINDS[:2])
    close(got.logits, want.pred_masks[:, 0], 1e-5)
    for row in range(2):
        alone = ours.predict(features[row], points=CLICKS[row : row + 1], labels=KINDS[row : row + 1])
        close(alone.logits, want.pred_masks[row], 1e-5)


@torch.no_grad()
def test_a_mask_and_points() -> None:
    peer, (_, ours) = picture_model(), both()
    x = pictures(1, 3, SIDE, SIDE)
    masks = torch.randn(1, 1, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(1)) * 5
    want = peer(pixel_values=x, input_points=CLICKS[None, :1], input_labels=KINDS[None, :1], input_masks=masks)
    got = ours.predict(ours.encode_image(x), points=CLICKS[:1], labels=KINDS[:1], masks=masks)
    close(got.logits, want.pred_masks[0], 1e-5)
    close(got.iou, want.iou_scores[0], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pointers", [0, 3])
def test_memory_attention(pointers: int) -> None:
    peer, ours = both()
    places, generator = (SIDE // 16) ** 2, torch.Generator().manual_seed(0)
    tokens = 3 * places + WIDTH // MEMORY * pointers

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, code, memory, position = (
        noise(1, places, WIDTH),
        noise(1, places, WIDTH),
        *(noise(1, tokens, MEMORY) for _ in "ab"),
    )
    flipped = [part.transpose(0, 1) for part in (x, code, memory, position)]
    want = peer.memory_attention(
        current_vision_features=flipped[0],
        current_vision_position_embeddings=flipped[1],
        memory=flipped[2],
        memory_posision_embeddings=flipped[3],
        num_object_pointer_tokens=WIDTH // MEMORY * pointers,
    )
    close(
        ours.memory_attention(x, code, memory, position, WIDTH // MEMORY * pointers),
        want.reshape(1, places, WIDTH),
        1e-5,
    )


@torch.no_grad()
def test_memory_encoder() -> None:
    peer, ours = both()
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, WIDTH, SIDE // 16, SIDE // 16, generator=generator)
    mask = torch.randn(2, 1, SIDE, SIDE, generator=generator) * 10
    want, _ = peer.memory_encoder(maps, mask)
    close(ours.memory_encoder(maps, mask), want, 1e-5)


def peer_video(peer: Any, frames: Tensor, prompts: list[dict[str, Any]], reverse: bool = False) -> list[Tensor]:
    """Logits (objects, 1, S / 4, S / 4) of each frame, by transformers; the prompts are on one frame."""
    session = transformers.models.sam2_video.modeling_sam2_video.Sam2VideoInferenceSession(
        video=frames, video_height=SIDE, video_width=SIDE, dtype=torch.float32
    )
    for number, prompt in enumerate(prompts):
        places = [prompt["points"], *([prompt["box"].view(1, 2, 2)] if "box" in prompt else [])]
        kinds = [prompt["labels"], *([torch.tensor([[2, 3]])] if "box" in prompt else [])]
        given = {"point_coords": torch.cat(places[::-1], 1)[None], "point_labels": torch.cat(kinds[::-1], 1)[None]}
        session.add_point_inputs(session.obj_id_to_idx(number + 1), prompt["frame"], given)
    session.obj_with_new_inputs = [number + 1 for number in range(len(prompts))]
    start = prompts[0]["frame"]
    first = peer(session, frame_idx=start)
    later = peer.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse)
    return [first.pred_masks, *(output.pred_masks for output in later)]


@torch.no_grad()
@pytest.mark.parametrize("version", ["sam2.1", "sam2"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_short_video(version: str, reverse: bool) -> None:
    peer, ours = both(version)
    frames = pictures(9, 3, SIDE, SIDE)
    start = 8 if reverse else 0
    prompts = [
        {"frame": start, "points": CLICKS[:1, :1], "labels": torch.tensor([[1]])},
        {"frame": start, "points": CLICKS[1:2], "labels": KINDS[1:2], "box": BOXES[1]},
    ]
    want = peer_video(peer, frames, prompts, reverse)
    session = ours.session(frames, size=(SIDE // 4, SIDE // 4))
    for number, prompt in enumerate(prompts):
        session.add_points(
            start,
            number + 1,
            (prompt["points"][0] / SIDE).tolist(),
            prompt["labels"][0].tolist(),
            box=(prompt["box"] / SIDE).tolist() if "box" in prompt else None,
            normalized=True,
        )
    found = list(session.propagate(reverse=reverse))
    assert [one.frame for one in found] == list(range(8, -1, -1) if reverse else range(9))
    assert len(found) == len(want) - 1
    close(found[0].logits, want[0][:, 0], 1e-4)
    for one, expected in zip(found, want[1:], strict=True):
        close(one.logits, expected[:, 0], 1e-3)  # memories are kept in bfloat16, where a last bit may differ


@torch.no_grad()
def test_condition_with_memories_and_pointers() -> None:
    """The assembly of the memory tokens against transformers' session, over one frame of a video."""
    peer, ours = both()
    frames = pictures(3, 3, SIDE, SIDE)
    prompts = [{"frame": 0, "points": CLICKS[:1, :1], "labels": torch.tensor([[1]])}]
    want = peer_video(peer, frames, prompts)
    features = [ours.encode_image(frame[None]) for frame in frames]
    heads = ours.heads(ours.unconditioned(features[0]), features[0], CLICKS[:1, :1], torch.tensor([[1]]))
    close(heads.logits, want[0], 1e-4)
    memory = ours.remember(features[0].coarse, heads.logits, heads.object_score, prompted=True)
    seen = Recollection([(memory.bfloat16(), ours.config.memories - 1)], [(heads.pointer, 1)])
    image = ours.condition(features[1].coarse, [seen], reach=3)
    close(ours.heads(image, features[1]).logits, want[2], 1e-3)

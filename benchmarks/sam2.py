"""SAM 2 against transformers: encoder, decoder with 64 prompts, everything on 8 x 8 clicks, a frame of a video.

One process, the same weights, inputs, threads and allocator; the sides take turns, and the median of the per-round
ratios is printed with its spread, beside the ratio of the best rounds. Outputs are compared before anything is timed.
The frame of the video looks at a full bank: one prompted and six tracked memories, sixteen pointers. The picture of
everything is square: on others transformers' pipeline puts the clicks in the wrong places.

    python benchmarks/sam2.py --model sam2.1-hiera-tiny --rounds 5 --parts encoder decoder everything video
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

import percepta
from percepta.models.sam2.everything import EverythingSettings, everything
from percepta.models.sam2.keys_transformers import transformers as names
from percepta.running import machine
from percepta.running.preparing import prepare, summary

Side = Callable[[], Any]


def peer_settings(config: Any) -> dict[str, Any]:
    """The sizes of a model in transformers' words."""
    trunk, side = config.trunk, config.image_size
    widths = [trunk.embed_dim * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": trunk.embed_dim,
        "num_attention_heads": trunk.heads,
        "image_size": [side, side],
        "blocks_per_stage": list(trunk.stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [trunk.heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(trunk.windows),
        "global_attention_blocks": list(trunk.global_blocks),
        "window_positional_embedding_background_size": list(trunk.background),
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
    }
    return {"vision_config": vision, "prompt_encoder_config": {"image_size": side}}


@torch.no_grad()
def models(name: str, image_size: int) -> tuple[Any, Any, dict[str, Any]]:
    """transformers' models for pictures and videos, and ours, plain and prepared, with the same random weights."""
    torch.manual_seed(0)
    plain = percepta.build(name, image_size=image_size).eval()
    for key, parameter in plain.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=max(parameter[0].numel(), 1) ** -0.5)
        else:
            parameter.normal_(mean=float(key.endswith(("weight", "gamma"))), std=0.1)
    settings, state = peer_settings(plain.config), names(plain.config).to_foreign(plain.state_dict())
    more = plain.config.pointer_times
    video_settings = settings | {
        "image_size": image_size,
        "memory_attention_rope_feat_sizes": [image_size // 16] * 2,
        "enable_occlusion_spatial_embedding": more,
        "enable_temporal_pos_encoding_for_object_pointers": more,
    }
    video = transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**video_settings)).eval()
    video.load_state_dict(state)
    picture = transformers.Sam2Model(transformers.Sam2Config(**settings)).eval()
    picture.load_state_dict({key: state[key] for key in picture.state_dict()})
    return picture, video, {"plain": plain, "prepared": prepare(copy.deepcopy(plain))}


def compare(title: str, sides: dict[str, Side], rounds: int, same: Callable[[Any, Any], float], limit: float) -> None:
    """Print every side's speed against the first one's, after a check that it gives the same."""
    outputs = {name: run() for name, run in sides.items()}
    base, *others = sides
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    for name in others:
        change = same(outputs[name], outputs[base])
        assert change <= limit, f"{title}: {name} differs from {base} by {change:.1e}"
        ratios = sorted(theirs / mine for mine, theirs in zip(seconds[name], seconds[base], strict=True))
        best = min(seconds[base]) / min(seconds[name])
        print(
            f"{title:<26} {name:<9} {statistics.median(ratios):5.2f} times {base} ({ratios[0]:.2f} to {ratios[-1]:.2f};"
            f" best rounds {best:.2f}: {min(seconds[name]):.2f} s for {min(seconds[base]):.2f} s)  change {change:.0e}",
            flush=True,
        )


def relative(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).norm() / theirs.norm())


def encoder(picture: Any, ours: dict[str, Any], rounds: int) -> None:
    side = picture.config.prompt_encoder_config.image_size
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 4 - 2
    sides: dict[str, Side] = {"transformers": lambda: picture.get_image_embeddings(x)}
    for name, model in ours.items():
        sides[name] = lambda model=model: _maps(model, model.encode_image(x))
    compare("encoder", sides, rounds, lambda a, b: max(map(relative, a, b)), 1e-4)


def _maps(model: Any, features: Any) -> list[Tensor]:
    return [features.fine, features.middle, model.unconditioned(features)]


def grid(side: int, pixels: int) -> Tensor:
    """(side^2, 1, 2) clicks in pixels."""
    places = (torch.arange(side) + 0.5) / side * pixels
    return torch.stack([places.repeat(side), places.repeat_interleave(side)], dim=-1)[:, None]


def decoder(picture: Any, ours: dict[str, Any], rounds: int) -> None:
    side = picture.config.prompt_encoder_config.image_size
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 4 - 2
    points, labels = grid(8, side), torch.ones(64, 1, dtype=torch.long)
    seen = picture.get_image_embeddings(x)
    sides: dict[str, Side] = {
        "transformers": lambda: picture(
            image_embeddings=list(seen), input_points=points[None], input_labels=labels[None]
        ).pred_masks[0]
    }
    for name, model in ours.items():
        features = model.encode_image(x)
        sides[name] = lambda model=model, features=features: model.predict(features, points, labels).logits
    compare("decoder, 64 prompts", sides, rounds, relative, 1e-4)


def photograph(height: int, width: int) -> np.ndarray:
    """Coloured patches with some noise, (height, width, 3) uint8."""
    draw = np.random.default_rng(0)
    patches = draw.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3)).repeat(40, 0).repeat(40, 1)
    noise = draw.integers(-12, 13, (height, width, 3))
    return np.clip(patches[:height, :width] + noise, 0, 255).astype(np.uint8)


def everywhere(picture: Any, ours: dict[str, Any], rounds: int, size: tuple[int, int]) -> None:
    from PIL import Image

    side = picture.config.prompt_encoder_config.image_size
    pixels = photograph(*size)
    processor = transformers.Sam2ImageProcessor(
        size={"height": side, "width": side}, mask_size={"height": side // 4, "width": side // 4}
    )
    pipeline = transformers.pipeline("mask-generation", model=picture, image_processor=processor)

    def prepare_picture(image: np.ndarray) -> Tensor:  # that of transformers for both: it resizes bytes
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    plain = ours["plain"]
    features = plain.encode_image(prepare_picture(pixels)[None])
    threshold = _in_a_gap(plain.predict(features, grid(8, side), torch.ones(64, 1, dtype=torch.long)).iou)
    settings = EverythingSettings(8, iou_threshold=threshold, stability_threshold=1e-6, box_nms_threshold=1.0)
    seen = torch.from_numpy(pixels).permute(2, 0, 1)
    sides: dict[str, Side] = {
        "transformers": lambda: pipeline(
            Image.fromarray(pixels),
            points_per_crop=8,
            points_per_batch=64,
            pred_iou_thresh=threshold,
            stability_score_thresh=1e-6,
            crops_nms_thresh=1.0,
        )["masks"]
    }
    for name, model in ours.items():
        sides[name] = lambda model=model: everything(model, seen, settings, prepare_picture).masks()
    found = everything(plain, seen, settings, prepare_picture)
    print(f"everything: {len(found)} masks of a picture of {size[1]} x {size[0]}")
    compare("everything, 8 x 8", sides, rounds, _unlike, 1e-2)


def _in_a_gap(iou: Tensor) -> float:
    """A threshold that about three masks in ten pass, as far as possible from any of them."""
    values = iou.flatten().sort().values
    some = values[int(0.65 * len(values)) : int(0.75 * len(values))]
    place = int((some[1:] - some[:-1]).argmax())
    return float(some[place] + some[place + 1]) / 2


def _unlike(mine: Any, theirs: Any) -> float:
    """The largest share of pixels in which a mask differs from its partner; 1 for another number of masks."""
    if len(mine) != len(theirs):
        return 1.0
    return max(
        float(np.mean(np.asarray(a) != b)) for a, b in zip([np.asarray(mask) for mask in theirs], mine, strict=True)
    )


def video(peer: Any, ours: dict[str, Any], rounds: int, count: int) -> None:
    side = peer.config.image_size
    frame = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 4 - 2
    bank = _bank(ours["plain"].config, count)
    sides: dict[str, Side] = {"transformers": lambda: _peer_frame(peer, frame, bank)}
    for name, model in ours.items():
        sides[name] = lambda model=model: _our_frame(model, frame, bank)
    compare(f"frame, {count} object{'s'[: count > 1]}", sides, rounds, relative, 1e-3)


def _bank(config: Any, count: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Memory and pointer of each object and of each of the frames 0 to 15."""
    draw = torch.Generator().manual_seed(0)
    places = config.image_size // 16
    return [
        [
            (
                torch.randn(1, config.memory_width, places, places, generator=draw).bfloat16(),
                torch.randn(1, config.width, generator=draw),
            )
            for _ in range(16)
        ]
        for _ in range(count)
    ]


def _peer_frame(peer: Any, frame: Tensor, bank: list[list[tuple[Tensor, Tensor]]]) -> Tensor:
    side = peer.config.image_size
    session = Sam2VideoInferenceSession(frame[None], side, side, dtype=torch.float32)
    session.processed_frames = dict.fromkeys(range(17), frame)
    position = peer.memory_encoder.position_encoding((1, peer.mem_dim, side // 16, side // 16), "cpu", torch.float32)
    for number, rows in enumerate(bank):
        tables = session.output_dict_per_obj[session.obj_id_to_idx(number + 1)]
        for index, (memory, pointer) in enumerate(rows):
            tables["cond_frame_outputs" if index == 0 else "non_cond_frame_outputs"][index] = {
                "maskmem_features": memory.flatten(2).permute(2, 0, 1),
                "maskmem_pos_enc": position.flatten(2).permute(2, 0, 1),
                "object_pointer": pointer[None],
            }
    return peer(session, frame_idx=16).pred_masks[:, 0]


def _our_frame(model: Any, frame: Tensor, bank: list[list[tuple[Tensor, Tensor]]]) -> Tensor:
    side = model.config.image_size
    session = model.session([frame] * 17, size=(side // 4, side // 4))
    state = session.state_dict()
    state["facts"]["position"] = 15
    for number, rows in enumerate(bank):
        state["facts"]["objects"].append({"identity": number, "visited": [[index, False] for index in range(1, 16)]})
        for index, (memory, pointer) in enumerate(rows):
            start = f"{number}.{'prompted' if index == 0 else 'tracked'}.{index}"
            parts = {"pointer": pointer, "object_score": torch.ones(1, 1), "memory": memory}
            state["tensors"] |= {f"{start}.{name}": value for name, value in parts.items()}
    session.load_state_dict(state)
    return next(session.propagate(start=16, max_frames=0)).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sam2.1-hiera-tiny")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--picture", type=int, nargs=2, default=(1500, 1500), metavar=("HEIGHT", "WIDTH"))
    parts = ("encoder", "decoder", "everything", "video")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--allocator", choices=("default", "tuned"), default="default", help="of all sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    tuned = arguments.allocator == "tuned" and machine.tune_allocator()
    print(
        f"{machine.signature()} | transformers {transformers.__version__} | allocator {'tuned' if tuned else 'default'}"
    )
    picture, peer, ours = models(arguments.model, arguments.image_size)
    print(f"{arguments.model} at {arguments.image_size}: {summary(ours['prepared'])}")
    with torch.inference_mode():
        if "encoder" in arguments.parts:
            encoder(picture, ours, arguments.rounds)
        if "decoder" in arguments.parts:
            decoder(picture, ours, arguments.rounds)
        if "everything" in arguments.parts:
            everywhere(picture, ours, arguments.rounds, tuple(arguments.picture))
        if "video" in arguments.parts:
            for count in arguments.objects:
                video(peer, ours, arguments.rounds, count)


if __name__ == "__main__":
    main()

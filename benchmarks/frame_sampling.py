"""Eight evenly spread frames of a video: the key-frame plan against decoding everything, alternating in one process.

    python benchmarks/frame_sampling.py [VIDEO ...] [--count 8] [--rounds 15]

Without videos, four are made: H.264 with one key frame, H.264 with many, MPEG-4 with dense key frames, VP9. Peers:
decode every frame with one thread, and with as many as FFmpeg likes (both convert only the wanted frames to RGB), and
a seek for every wanted frame. Opening the file counts for all. The frames are compared bit by bit first. The ratio of
processor times is printed too, because it is steadier on a busy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from percepta.media import VideoReader, sample_frames

Frames = list[Image.Image]


def with_plan(path: Path, count: int) -> Frames:
    """The library's way."""
    with VideoReader(path) as reader:
        return reader.read(sample_frames(reader.frames, count))


def decode_all(path: Path, count: int, threads: str, known: int) -> Frames:
    """Every frame decoded, from the first to the last; `known` spares this peer the counting."""
    wanted = set(sample_frames(known, count))
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = threads
        return [frame.to_image() for number, frame in enumerate(container.decode(video=0)) if number in wanted]


def seek_each(path: Path, times: list[int]) -> Frames:
    """A seek to the key frame before every wanted frame."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for pts in times:
            container.seek(pts, stream=stream)
            found.append(next(frame for frame in container.decode(stream) if (frame.pts or 0) >= pts).to_image())
    return found


def make(folder: Path) -> list[Path]:
    """Four clips of 300 frames with moving noise."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (360, 640, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(large).resize((80, 45)).resize((640, 360), Image.Resampling.BICUBIC))
    kinds = (
        ("h264_one_key.mp4", "libx264", 1000),
        ("h264_key_each_second.mp4", "libx264", 25),
        ("mpeg4_dense_keys.mp4", "mpeg4", 12),
        ("vp9_key_each_second.webm", "libvpx-vp9", 25),
    )
    paths = []
    for name, encoder, group in kinds:
        paths.append(folder / name)
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(encoder, rate=25)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            stream.codec_context.gop_size = group
            stream.options = {"deadline": "realtime", "cpu-used": "8"} if "vpx" in encoder else {"preset": "veryfast"}
            for number in range(300):
                array = np.roll(smooth, 3 * number, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


def compare(ours: Callable[[], Frames], theirs: Callable[[], Frames], rounds: int) -> str:
    """Median ratio of neighbouring runs, its 10 to 90 % range, both medians, and the ratio of processor times."""
    walls: dict[int, list[float]] = {0: [], 1: []}
    work: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            start, busy = time.perf_counter(), time.process_time()
            (ours, theirs)[which]()
            if turn:
                walls[which].append(time.perf_counter() - start)
                work[which].append(time.process_time() - busy)
    mine, other = np.array(walls[0]), np.array(walls[1])
    low, middle, high = np.quantile(other / mine, [0.1, 0.5, 0.9])
    busy_ratio = float(np.median(np.array(work[1]) / np.array(work[0])))
    milliseconds = f"{1e3 * np.median(mine):.1f} against {1e3 * np.median(other):.1f} ms"
    return f"{middle:.2f}x  [{low:.2f}, {high:.2f}]  {milliseconds}, processor {busy_ratio:.2f}x"


def main() -> None:
    """Print one block per video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.videos or make(Path(folder)):
            report(path, arguments.count, arguments.rounds)


def report(path: Path, count: int, rounds: int) -> None:
    """Check equality, then time the three peers."""
    with av.open(str(path)) as container:
        times = [frame.pts or 0 for frame in container.decode(video=0)]
    wanted = [times[index] for index in sample_frames(len(times), count)]
    peers: dict[str, Callable[[], Frames]] = {
        "decode all, one thread": lambda: decode_all(path, count, "NONE", len(times)),
        "decode all, threads": lambda: decode_all(path, count, "AUTO", len(times)),
        "seek for every frame": lambda: seek_each(path, wanted),
    }
    expected = peers["decode all, one thread"]()
    with VideoReader(path) as reader:
        print(f"{path.name}: {reader.frames} frames of {reader.size[0]}x{reader.size[1]}")
    got = with_plan(path, count)
    if len({id(frame) for frame in got}) != len(expected) or any(
        not np.array_equal(np.asarray(mine), np.asarray(theirs)) for mine, theirs in zip(got, expected, strict=True)
    ):
        raise SystemExit(f"{path}: the frames differ")
    for name, theirs in peers.items():
        print(f"  against {name:24} {compare(lambda: with_plan(path, count), theirs, rounds)}")


if __name__ == "__main__":
    main()

"""What moments of a video cost: decoding against the model, and memory against length.

python benchmarks/moments.py --files clips/*.mp4
python benchmarks/moments.py --minutes 2 120
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from percepta.media import Source, VideoReader, write_video
from percepta.tasks.encoder import Encoder
from percepta.tasks.indexing.moments import MomentRule, pieces, video_moments

FRAMES_A_SECOND = 10


def cost(encoder: Encoder, path: Path) -> None:
    """Process time of decoding (with preprocessing) and of the model, one after the other, and the time of both."""
    with VideoReader(path) as reader:
        seconds, size = reader.duration, reader.size
    began = time.process_time()
    parts = list(pieces(path, encoder.model.preprocess, MomentRule()))
    decoding = time.process_time() - began
    began = time.process_time()
    for part in parts:
        encoder.embed(part.pixels)
    model = time.process_time() - began
    frames = sum(len(part.pixels) for part in parts)
    print(
        f"{path.name}: {size[0]}x{size[1]}, {seconds:.1f} s, {frames} frames looked at; decoding {decoding:.2f} s, "
        f"model {model:.2f} s of process time: {seconds / (decoding + model):.0f} s of video a second, "
        f"{decoding / (decoding + model):.0%} of it decoding"
    )


def film(minutes: float) -> Iterator[np.ndarray]:
    """Shots of noise of 7 seconds, with something that moves."""
    random, shot = np.random.default_rng(0), np.zeros((120, 160, 3), np.uint8)
    for number in range(int(minutes * 60 * FRAMES_A_SECOND)):
        if number % (7 * FRAMES_A_SECOND) == 0:
            small = Image.fromarray(random.integers(0, 255, (3, 4, 3), dtype=np.uint8))
            shot = np.asarray(small.resize((160, 120), Image.Resampling.BICUBIC))
        yield np.roll(shot, number % 40, axis=1)


def memory(minutes: float) -> None:
    """In a process of its own: peak memory before and after a video of so many minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "film.mp4", film(minutes), FRAMES_A_SECOND)
        encoder = Encoder("pe-core-nano")
        video_moments(encoder, Source("short", "video", write_video(Path(folder) / "short.mp4", film(0.5), 10)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        found = video_moments(encoder, Source("film", "video", path))
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shots = -(-minutes * 60 // 7)
    print(
        f"{minutes:g} minutes: {len(found)} moments of {shots:.0f} shots in {seconds:.1f} s; peak memory "
        f"{before / 1024:.0f} MB after half a minute of video, {after / 1024:.0f} MB after this one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--minutes", type=float, nargs="*", default=[])
    parser.add_argument("--alone", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.alone is not None:
        memory(options.alone)
        return
    encoder = Encoder("pe-core-nano") if options.files else None
    for path in options.files:
        assert encoder is not None
        cost(encoder, path)
    for minutes in options.minutes:
        subprocess.run([sys.executable, __file__, "--alone", str(minutes)], check=True)


if __name__ == "__main__":
    main()

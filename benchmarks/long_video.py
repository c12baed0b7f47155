"""Does memory grow with a video? Peak memory of tracking short and long endless streams, each in a process of its own.

    python benchmarks/long_video.py                                    # sam2-nano, 300 and 3,000 frames
    python benchmarks/long_video.py --model sam2.1-hiera-tiny --image-size 256 --frames 30 300

Frames come from a generator, as from a camera; two objects are followed. Prints peak memory, seconds a frame and the
ratio of the peaks.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import torch


def track(name: str, image_size: int | None, count: int) -> None:
    """Follow two objects through `count` frames; prints peak memory in MiB and seconds a frame."""
    import percepta

    torch.manual_seed(0)
    model = percepta.build(name, **({} if image_size is None else {"image_size": image_size})).eval()
    side = model.config.image_size
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(3, side, side, generator=draw)

    def camera() -> Iterator[torch.Tensor]:
        for frame in range(count):
            yield base.roll(frame, -1)

    session = model.session(camera(), size=(side, side))
    session.add_box(0, 1, (side * 0.1, side * 0.1, side * 0.5, side * 0.6))
    session.add_points(0, 2, [(side * 0.7, side * 0.7)], [1])
    start = time.perf_counter()
    frames = sum(1 for _ in session.propagate())
    seconds = (time.perf_counter() - start) / frames
    assert frames == count
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f} {seconds:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="sam2-nano")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, nargs=2, default=(300, 3000))
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only is not None:
        track(given.model, given.image_size, given.only)
        return
    peaks = []
    for count in given.frames:
        size = [] if given.image_size is None else ["--image-size", str(given.image_size)]
        command = [sys.executable, __file__, "--model", given.model, *size, "--only", str(count)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        peaks.append(float(said[0]))
        print(f"{given.model}, {count} frames: peak {peaks[-1]:.1f} MiB, {float(said[1]) * 1000:.1f} ms a frame")
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()

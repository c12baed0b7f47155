"""Small videos made on the spot: several codecs, B-frames, open groups, variable rate, rotation flags."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
X264_OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=3"

# name -> (file ending, encoder, options, largest number of B-frames, group size)
CODECS: dict[str, tuple[str, str, dict[str, str], int, int]] = {
    "h264 with B-frames": (".mp4", "libx264", {}, 2, 12),
    "h264 without B-frames": (".mp4", "libx264", {"x264-params": "bframes=0:keyint=10"}, 0, 10),
    "h264 all key frames": (".mp4", "libx264", {}, 0, 1),
    "h264 open groups mp4": (".mp4", "libx264", {"x264-params": X264_OPEN}, 3, 12),
    "h264 open groups mkv": (".mkv", "libx264", {"x264-params": X264_OPEN}, 3, 12),
    "h264 mov": (".mov", "libx264", {}, 2, 20),
    "h264 avi": (".avi", "libx264", {}, 2, 12),
    "h264 transport stream": (".ts", "libx264", {}, 2, 12),
    "mpeg4 dense": (".mp4", "mpeg4", {}, 0, 6),
    "mpeg4 with B-frames": (".mp4", "mpeg4", {}, 2, 12),
    "mpeg4 avi": (".avi", "mpeg4", {}, 0, 12),
    "vp8": (".webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}, 0, 20),
    "vp9": (".webm", "libvpx-vp9", {}, 0, 12),
    "gif": (".gif", "gif", {}, 0, 12),
}


def has_encoder(name: str) -> bool:
    """Whether this build of FFmpeg has the encoder of an entry of CODECS."""
    return CODECS[name][1] in av.codec.codecs_available


def arrays(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames that differ from each other everywhere."""
    blocks = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3))
    base = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
    frames = []
    for number in range(count):
        frame = np.roll(base, number * 2, axis=1).copy()
        frame[:8, :8] = number * 3 % 256
        frames.append(frame)
    return frames


def make(folder: Path, name: str, count: int = 40, variable: bool = False) -> Path:
    """Write a clip; with `variable`, frames last 20, 70 and 33 ms in turn."""
    ending, encoder, options, b_frames, group = CODECS[name]
    path = folder / (name.replace(" ", "_") + ("_variable" if variable else "") + ending)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb8" if encoder == "gif" else "yuv420p"
        stream.options = options
        stream.codec_context.gop_size = group
        if "libvpx" not in encoder and encoder != "gif":
            stream.codec_context.max_b_frames = b_frames
        if variable:
            stream.codec_context.time_base = Fraction(1, 1000)
        pts = 0
        for number, array in enumerate(arrays(count)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if variable:
                frame.pts, frame.time_base = pts, Fraction(1, 1000)
                pts += (20, 70, 33)[number % 3]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame as stored, by plain decoding from the start."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def rotate_flag(data: bytes, clockwise: int) -> bytes:
    """An MP4 file whose track header asks players to turn the picture clockwise, as phones write it."""
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise]
    shift_x, shift_y = {0: (0, 0), 90: (HEIGHT, 0), 180: (WIDTH, HEIGHT), 270: (0, WIDTH)}[clockwise]
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, shift_x * one, shift_y * one, 1 << 30)
    start = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, track, duration, layer, group, volume
    return data[:start] + matrix + data[start + 36 :]

"""What the scene world hands back: objects, pictures, clips, and their ground truth (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing of a scene.

    Lengths are in units of the picture's shorter side, `centre` is (x, y) from the upper left corner, `angle` is in
    radians, `distance` is in metres from the viewer: a smaller distance is nearer and covers what is behind it.
    """

    colour: str
    shape: str
    texture: str
    size: str
    centre: tuple[float, float]
    radius: float
    angle: float
    distance: float

    @property
    def name(self) -> str:
        """Such as 'red striped circle'."""
        return f"{self.colour} {self.texture} {self.shape}"


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Walls and floor (or sky and field) behind the objects; light comes from `light`, a unit vector (x, y)."""

    wall: tuple[float, float, float]
    floor: tuple[float, float, float]
    outdoors: bool
    wall_pattern: int
    floor_pattern: int
    horizon: float
    phase: float
    light: tuple[float, float]


@dataclass(frozen=True, slots=True)
class HardNegative:
    """A caption that is false for its scene although every single word of it could be true."""

    caption: str
    kind: str  # 'swap colour', 'swap shape', 'swap texture', 'relation'; for clips also 'direction', 'order'


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """A scene before it is painted: all that is said and placed, no pixels. The named objects come first."""

    seed: int
    objects: tuple[SceneObject, ...]
    named: int
    backdrop: Backdrop
    caption: str
    negatives: tuple[HardNegative, ...]

    @property
    def label(self) -> str:
        """Colour and shape of the largest object, such as 'red star'."""
        largest = max(self.objects, key=lambda thing: thing.radius)
        return f"{largest.colour} {largest.shape}"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture with its full ground truth; arrays follow the order of `objects`.

    picture: (H, W, 3) uint8. visible_masks, amodal_masks: (N, H, W) bool, the latter as if nothing stood in front.
    boxes, amodal_boxes: (N, 4) float32, x1 y1 x2 y2 in pixels, the far edges exclusive. depth: (H, W) float32,
    metres from the viewer (smaller is nearer). hard_negatives: 1 to 3 false captions; negative_kinds: what was changed.
    """

    seed: int
    picture: np.ndarray
    caption: str
    hard_negatives: tuple[str, ...]
    negative_kinds: tuple[str, ...]
    objects: tuple[SceneObject, ...]
    label: str
    boxes: np.ndarray
    amodal_boxes: np.ndarray
    visible_masks: np.ndarray
    amodal_masks: np.ndarray
    depth: np.ndarray

    @property
    def visible_fractions(self) -> np.ndarray:
        """(N,) float32: how much of each object within the picture is not covered by another."""
        return visible_fractions(self.visible_masks, self.amodal_masks)


@dataclass(frozen=True, slots=True, eq=False)
class SceneBatch:
    """Pictures (B, H, W, 3) uint8 with one caption, one hard negative, its kind and one label each."""

    seeds: tuple[int, ...]
    pictures: np.ndarray
    captions: list[str]
    hard_negatives: list[str]
    negative_kinds: list[str]
    labels: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One object through a clip.

    boxes: (T, 4) float32 of the visible part, zeros where nothing of it is seen. visible_masks, amodal_masks:
    (T, H, W) bool. visible: (T,) float32, the share of its pixels inside the picture that is not covered (0 when it
    is outside). occluded: (T,) bool, at least a tenth covered by another object. motion: 'still', 'left', 'right',
    'up', 'down', 'bounces', 'enters from the left' (or right), 'leaves to the left' (or right).
    """

    object: SceneObject
    motion: str
    centres: np.ndarray  # (T, 2) float32, units of the shorter side
    boxes: np.ndarray
    visible_masks: np.ndarray
    amodal_masks: np.ndarray
    visible: np.ndarray
    occluded: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """(T,) bool, whether nothing is seen of it in a frame after the first that shows it."""
        seen = self.visible_masks.any(axis=(1, 2))
        return np.asarray(~seen & np.logical_or.accumulate(seen))


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A short video with its full ground truth.

    frames: (T, H, W, 3) uint8. caption: with motion words. content_caption: only what is seen. Hard negatives of
    either. depth: (T, H, W) float32, metres from the viewer (smaller is nearer). tracks: one per object.
    """

    seed: int
    frames: np.ndarray
    caption: str
    content_caption: str
    hard_negatives: tuple[str, ...]
    negative_kinds: tuple[str, ...]
    content_hard_negatives: tuple[str, ...]
    tracks: tuple[Track, ...]
    depth: np.ndarray

    @property
    def has_occlusion(self) -> bool:
        """Whether some object is at least a tenth covered by another in some frame."""
        return any(bool(track.occluded.any()) for track in self.tracks)

    @property
    def hides(self) -> bool:
        """Whether some object that was seen is altogether out of sight in a later frame."""
        return any(bool(track.hidden.any()) for track in self.tracks)


def visible_fractions(visible: np.ndarray, amodal: np.ndarray) -> np.ndarray:
    """(..., H, W) masks to (...) float32 shares; 0 where the amodal mask is empty."""
    whole = amodal.sum(axis=(-2, -1))
    return np.asarray(visible.sum(axis=(-2, -1)) / np.maximum(whole, 1), np.float32)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """(..., H, W) masks to (..., 4) float32 boxes x1 y1 x2 y2, far edges exclusive; zeros for an empty mask."""
    columns, rows = np.asarray(masks.any(axis=-2)), np.asarray(masks.any(axis=-1))
    found = np.asarray(columns.any(axis=-1))
    corners = (
        columns.argmax(axis=-1),
        rows.argmax(axis=-1),
        masks.shape[-1] - columns[..., ::-1].argmax(axis=-1),
        masks.shape[-2] - rows[..., ::-1].argmax(axis=-1),
    )
    return np.stack([np.where(found, corner, 0) for corner in corners], axis=-1).astype(np.float32)

"""Captions and their hard negatives, from a small grammar that can also be read back.

A caption names two to four objects and in half of the cases says how the first stands to the second. It either names
the texture of every object it names, or of none (then textures are left open). So each caption is plainly true or
false of a scene, and `is_true(parse(caption), objects)` decides it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from percepta.datasets.scenes.dice import Dice
from percepta.datasets.scenes.scene import HardNegative, SceneObject
from percepta.datasets.scenes.vocabulary import COLOURS, OPPOSITE, RELATIONS, SHAPES, TEXTURES
from percepta.errors import BadInput

CLEAR = 0.05  # how far two centres must lie apart, in shorter sides, before a relation counts as true
OPENINGS = ("", "", "", "a picture of ", "we see ", "there is ")
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_RELATION_OF = {words: relation for relation, phrases in RELATION_WORDS.items() for words in phrases}
_FIRST, _SECOND = f"({'|'.join((*COLOURS, *TEXTURES))})", f"({'|'.join((*COLOURS, *TEXTURES))})"
_THING = re.compile(rf"\ban? {_FIRST} (?:{_SECOND} )?({'|'.join(SHAPES)})\b")


@dataclass(frozen=True, slots=True)
class Description:
    """What a caption says of one object; texture None means that it says nothing about it."""

    colour: str
    shape: str
    texture: str | None = None

    def fits(self, thing: SceneObject) -> bool:
        return (self.colour, self.shape) == (thing.colour, thing.shape) and self.texture in (None, thing.texture)


@dataclass(frozen=True, slots=True)
class Wording:
    """Which of the grammar's phrasings a caption uses; a hard negative keeps the wording of its caption."""

    opening: str = ""
    relation: int = 0
    joint: str = ", "
    texture_first: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """The meaning of a caption: these objects are there, and the first stands in `relation` to the second."""

    things: tuple[Description, ...]
    relation: str | None = None
    wording: Wording = Wording()


def relation_holds(relation: str, first: SceneObject, second: SceneObject) -> bool:
    """Whether `first` stands in `relation` to `second`, judged by the centres."""
    across, down = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    return {"left of": -across, "right of": across, "above": -down, "below": down}[relation] >= CLEAR


def is_true(statement: Statement, objects: Sequence[SceneObject]) -> bool:
    """Whether the statement holds: distinct objects fit its descriptions, and its relation holds between them."""
    chosen = [next((thing for thing in objects if said.fits(thing)), None) for said in statement.things]
    found = [thing for thing in chosen if thing is not None]
    if len(found) < len(chosen) or len({id(thing) for thing in found}) < len(found):
        return False
    return statement.relation is None or relation_holds(statement.relation, found[0], found[1])


def draw_statement(dice: Dice, objects: Sequence[SceneObject], related: bool = True) -> tuple[list[int], Statement]:
    """A true statement about all `objects`, and the order in which it names them."""
    order = dice.shuffled(range(len(objects)))
    relation = None
    if related and dice.chance(0.5):
        order, relation = _clearest_first(order, objects)
    textured = dice.chance(0.75)
    wording = Wording(
        opening=dice.pick(OPENINGS),
        relation=dice.below(6),
        joint=dice.pick((", ", ", ", " with ")),
        texture_first=dice.chance(0.5),
    )
    things = tuple(
        Description(objects[i].colour, objects[i].shape, objects[i].texture if textured else None) for i in order
    )
    return order, Statement(things, relation, wording)


def _clearest_first(order: list[int], objects: Sequence[SceneObject]) -> tuple[list[int], str]:
    """The first two of `order`, or the first pair that stands more clearly along one axis, and their relation."""
    best: tuple[float, int, int, str] | None = None
    for a in range(len(order)):
        for b in range(a + 1, len(order)):
            first, second = objects[order[a]], objects[order[b]]
            across, down = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
            clear = min(max(abs(across), abs(down)) / (min(abs(across), abs(down)) + 1e-6), 1.8)
            if abs(across) > abs(down):
                relation = "left of" if across < 0 else "right of"
            else:
                relation = "above" if down < 0 else "below"
            if best is None or clear > best[0]:
                best = (clear, a, b, relation)
    assert best is not None, "a caption names at least two objects"
    _, a, b, relation = best
    rest = [order[i] for i in range(len(order)) if i not in (a, b)]
    return [order[a], order[b], *rest], relation


def describe(thing: Description, texture_first: bool = False) -> str:
    """Such as 'a red striped circle'."""
    words = [thing.colour] if thing.texture is None else [thing.colour, thing.texture]
    if texture_first:
        words.reverse()
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)} {thing.shape}"


def join_words(parts: Sequence[str], joint: str = ", ") -> str:
    """'a', 'a and b', 'a, b and c', or 'a with b and c'."""
    if len(parts) < 3:
        return (" and " if joint == ", " else joint).join(parts)
    return f"{parts[0]}{joint}{', '.join(parts[1:-1])} and {parts[-1]}"


def caption_of(statement: Statement) -> str:
    """The statement in words."""
    wording = statement.wording
    parts = [describe(thing, wording.texture_first) for thing in statement.things]
    if statement.relation is None:
        return wording.opening + join_words(parts, wording.joint)
    phrases = RELATION_WORDS[statement.relation]
    pair = f"{parts[0]} {phrases[wording.relation % len(phrases)]} {parts[1]}"
    rest = f", with {join_words(parts[2:])}" if len(parts) > 2 else ""
    return wording.opening + pair + rest


def parse(caption: str) -> Statement:
    """The meaning of a caption of this grammar. Raises BadInput where it names no object of this world."""
    things, places = [], []
    for found in _THING.finditer(caption):
        words = {word for word in found.groups()[:2] if word}
        colour, texture = words & set(COLOURS), words & set(TEXTURES)
        if len(colour) != 1 or len(colour) + len(texture) != len(words):
            raise BadInput(f"a caption must give each object one colour; got {found.group()!r}.")
        things.append(Description(colour.pop(), found.group(3), texture.pop() if texture else None))
        places.append(found.span())
    if not things:
        raise BadInput(f"a caption must name an object such as 'a red plain star'; got {caption!r}.")
    between = caption[places[0][1] : places[1][0]].strip() if len(places) > 1 else ""
    return Statement(tuple(things), _RELATION_OF.get(between))


def hard_negatives(dice: Dice, statement: Statement, limit: int = 3) -> tuple[HardNegative, ...]:
    """Up to `limit` false captions of different kinds, in random order.

    They are false by construction, because pairs of colour and shape are unique in a scene and one of the two is
    unique by itself.
    """
    found = []
    for kind in dice.shuffled(("swap colour", "swap shape", "swap texture", "relation")):
        field = kind.removeprefix("swap ")
        changed = _reverse(statement) if kind == "relation" else swap_attribute(dice, statement, field)
        if changed is not None:
            found.append(HardNegative(caption_of(changed), kind))
    return tuple(found[:limit])


def _reverse(statement: Statement) -> Statement | None:
    return replace(statement, relation=OPPOSITE[statement.relation]) if statement.relation in RELATIONS else None


def swap_attribute(dice: Dice, statement: Statement, field: str) -> Statement | None:
    """One attribute swapped between two objects, such that the bag of words stays and the sense does not."""
    things = statement.things
    pairs = [
        (i, j)
        for i in range(len(things))
        for j in range(i)
        if getattr(things[i], field) != getattr(things[j], field)
        and (field == "texture" or (things[i].colour != things[j].colour and things[i].shape != things[j].shape))
    ]
    if not pairs:
        return None
    i, j = dice.pick(pairs)
    changed = list(things)
    changed[i] = replace(things[i], **{field: getattr(things[j], field)})
    changed[j] = replace(things[j], **{field: getattr(things[i], field)})
    return replace(statement, things=tuple(changed))

"""Labels to texts: prompt templates by name, and the vector of a label (arXiv 2103.00020 §3.1.4, 2504.13181).

Every template is filled with the label, encoded and scaled to length 1; the mean of these, scaled to length 1 again,
stands for the label.
Unusual: "a photo of a {}." filled with "a cat" does not say "a a cat"; the published sets are filled literally.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from percepta.errors import BadInput, MissingExtra, one_of
from percepta.evaluation.zero_shot import unit
from percepta.tasks.encoder import Encoder

DEFAULT = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")
PLAIN = ("{}",)
_MEDIA = ("photo", "video", "example", "demonstration")
_VERBS = ("using", "doing", "during", "performing", "practicing")
KINETICS = tuple(
    template
    for medium in _MEDIA
    for template in (
        f"a {medium} of {{}}.",
        f"a {medium} of a person {{}}.",
        *(f"a {medium} of a person {verb} {{}}." for verb in _VERBS),
    )
)
ACTIONS = tuple(
    f"a {medium} of {person} person {verb}{{}}."
    for medium in _MEDIA
    for person in ("a", "the")
    for verb in ("", *(f"{verb} " for verb in _VERBS))
)
SETS = ("default", "plain", "none", "imagenet", "kinetics", "ucf101")
NEUTRAL = (
    "a photo.", "a picture.", "an image.", "a photo of something.", "a picture of something else.", "some thing.",
    "a scene.", "a background.", "a texture.", "nothing in particular.",
)  # fmt: skip
_ARTICLES = ("a", "an", "the")


def templates_of(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Templates with one {} each: None is the default, a text is the name of a set or one template.

    Raises: BadInput for an unknown name, or a template without {}.
    """
    if templates is None:
        return DEFAULT
    if isinstance(templates, str) and "{}" not in templates:
        named = {"default": DEFAULT, "plain": PLAIN, "none": PLAIN, "kinetics": KINETICS, "ucf101": ACTIONS}
        if templates == "imagenet":
            return _imagenet()
        if templates not in named:
            raise one_of("templates", templates, (*SETS, "a text with {}"))
        return named[templates]
    chosen = (templates,) if isinstance(templates, str) else tuple(templates)
    if not chosen:
        raise BadInput("templates must hold at least one text with {}; got none.")
    for template in chosen:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise BadInput(f"a template must be a text with one {{}} for the label; got {template!r}.")
    return chosen


def fill(template: str, label: str) -> str:
    """The template with the label in it; an article of the template gives way to one that the label brings."""
    before, _, after = template.partition("{}")
    words = before.split()
    if words and words[-1].lower() in _ARTICLES and label.split(maxsplit=1)[0].lower() in _ARTICLES:
        before = before.rstrip()[: -len(words[-1])]
    return before + label + after


def labels_of(labels: str | Sequence[str]) -> list[str]:
    """Labels from a comma-separated text or a sequence, stripped.

    Raises: BadInput for none, an empty one, one that is no text, or one that comes twice.
    """
    given = labels.split(",") if isinstance(labels, str) else list(labels)
    found: list[str] = []
    for number, label in enumerate(given, start=1):
        if not isinstance(label, str):
            raise BadInput(f"labels must be texts; label {number} is a {type(label).__name__}.")
        text = " ".join(label.split())
        if not text:
            raise BadInput(f"labels must not be empty; label {number} of {len(given)} is.")
        if text in found:
            raise BadInput(f"labels must differ; {text!r} comes twice.")
        found.append(text)
    if not found:
        raise BadInput("labels must hold at least one text; got none.")
    return found


def read_labels(file: str | Path) -> list[str]:
    """Labels from a text file, one a line; blank lines are skipped. Raises BadInput for no such file or no label."""
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"the label file {str(path)!r} does not exist.") from None
    except UnicodeDecodeError:
        raise BadInput(f"the label file {str(path)!r} must be UTF-8 text, one label a line.") from None
    except OSError as error:
        raise BadInput(f"the label file {str(path)!r} cannot be read: {error.strerror}.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"the label file {str(path)!r} holds no label; write one a line.")
    return labels_of(lines)


def classifier(encoder: Encoder, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
    """(K, D) float32 unit vectors, one per label."""
    vectors = encoder.words([fill(template, label) for label in labels for template in templates])
    return unit(vectors.unflatten(0, (len(labels), len(templates))).mean(dim=1))


def background(encoder: Encoder) -> Tensor:
    """(1, D): the unit vector of texts that say nothing in particular."""
    return unit(encoder.words(NEUTRAL).mean(dim=0, keepdim=True))


def class_names(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels: "imagenet" (OpenAI's 1,000), a file of one a line, or themselves.

    Lines may be "key<TAB>name" to name classes in any order. Unlike labels, names may come twice: two of ImageNet's do.

    Raises: BadInput for no such file, or no name in it.
    """
    if given == "imagenet":
        return tuple(_open_clip_metadata("the class names called imagenet").IMAGENET_CLASSNAMES)
    if not isinstance(given, str | Path):
        return tuple(given)
    path = Path(given).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise BadInput(
            f"classes must be imagenet or a file of one name a line; {str(path)!r} cannot be read: {reason}."
        ) from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise BadInput(f"the file of class names {str(path)!r} holds none; write one a line.")
    return names


def _imagenet() -> tuple[str, ...]:
    """The 80 published ImageNet templates."""
    module = _open_clip_metadata("the set of templates called imagenet")
    return tuple(template("{}") for template in module.OPENAI_IMAGENET_TEMPLATES)


def _open_clip_metadata(purpose: str) -> Any:
    """Templates and class names as open_clip ships them (that one module alone is loaded)."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise MissingExtra("open_clip_torch", "", purpose)
    file = Path(package.origin).with_name("zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("percepta._open_clip_templates", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

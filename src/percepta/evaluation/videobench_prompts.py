"""What is said to models and judges on PLM-VideoBench (arXiv 2504.13180, appendices C.3, C.4 and D): texts by name.

Order of this file: texts and where they come from, prompts of rows, messages to judges, judges that are no model.
Unusual: the packaged texts are our own, so scores under them do not compare with published ones. The published texts
are read from a file or from the folder of the reference's task files, which the user has; facts about them that are not
in these (how long answers may be, which length of a video is told) stand here.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from percepta.datasets.videobench import TASKS, Row
from percepta.errors import BadInput, one_of
from percepta.evaluation.videobench import FRAMES, TOTALS, shown_frames

VARIANTS = tuple(TOTALS)
PACKAGED = Path(__file__).with_name("videobench_prompts.toml")
MAX_NEW_TOKENS: dict[str, dict[str, int]] = {
    "percepta": {"fgqa": 16, "sgqa": 96, "rcap": 512, "rtloc": 16, "rdcap": 512},
    "paper": {"fgqa": 16, "sgqa": 96, "rcap": 512, "rtloc": 16, "rdcap": 512},
    "lmms-eval": {"fgqa": 16, "sgqa": 16, "rcap": 512, "rtloc": 16, "rdcap": 512},
}
"""How long answers may be, in tokens; the reference cuts smart-glasses answers of 20 to 30 words at 16 tokens."""
BEST_OPTION = "Reply with the best option alone."
JUDGES = ("answer", "caption")
_FIELD = re.compile(r"\{([a-z_]+)\}")
_KEPT = ("answer", "pred", "score")  # in braces, and not to be filled in: an unfilled place of the reference, and JSON

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Texts:
    """All that is said, of one variant.

    Attributes:
        variant: one of `VARIANTS`.
        tasks: the prompt of each task, with fields in braces.
        judges: {"answer" | "caption": {"system": ..., "user": ...}}.
        source: where the texts come from: "packaged", or the name of a file or folder; of the judges' as well.
    """

    variant: str
    tasks: Mapping[str, str]
    judges: Mapping[str, Mapping[str, str]]
    source: str = "packaged"

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any of the texts."""
        content = json.dumps([self.variant, dict(self.tasks), {k: dict(v) for k, v in self.judges.items()}])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def texts_of(variant: str = "percepta", place: str | Path | None = None) -> Texts:
    """The texts of a variant.

    Args:
        variant: "percepta", packaged; or "paper" or "lmms-eval", whose texts are not ours to give: pass `place`.
        place: a TOML file in the layout of the packaged one; or the reference's folder of task files, which has the
            prompts and not the judges' texts. What a place does not have is taken from the packaged file, and said.

    Raises: BadInput for an unknown variant, one of the published ones without a place, a place that cannot be read, or
        a text with a field that its task does not have.
    """
    if variant not in VARIANTS:
        raise one_of("variant", variant, VARIANTS, owner="PLM-VideoBench")
    if place is None and variant != "percepta":
        raise BadInput(
            f"the texts of the variant {variant!r} are not packaged: pass prompts, a TOML file or the folder "
            "lmms_eval/tasks/plm_videobench of the reference."
        )
    packaged = _read_toml(PACKAGED)
    if place is None:
        return _texts(variant, packaged, "packaged")
    path = Path(place).expanduser()
    if not path.exists():
        raise BadInput(f"prompts must be a TOML file or a folder of task files; there is no {str(path)!r}.")
    given = _read_folder(path) if path.is_dir() else _read_toml(path)
    lacking = [name for name in (*TASKS, "judge") if name not in given]
    note = f"{path.name}; packaged: {', '.join(lacking)}" if lacking else path.name
    return _texts(variant, {**packaged, **given}, note)


def _texts(variant: str, given: Mapping[str, Any], source: str) -> Texts:
    tasks = {task: str(given[task]).removeprefix("\n") for task in TASKS}
    judges = {}
    for kind in JUDGES:
        both = given["judge"].get(kind, {})
        if not {"system", "user"} <= set(both):
            raise BadInput(f"the texts of {source} must have judge.{kind} with system and user; got {sorted(both)}.")
        judges[kind] = {name: str(both[name]).removeprefix("\n") for name in ("system", "user")}
    example = Row("", "", question="q", options=("a", "b"), answer="a")
    for task, text in tasks.items():
        known = {*_fields(example, task, FRAMES, variant, checked=False), *_KEPT}
        for field in _FIELD.findall(text):
            if field not in known:
                raise one_of(f"a field of the text of {task}", field, sorted(known), owner=source)
    return Texts(variant, tasks, judges, source)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.name} must be a TOML file of texts; {' '.join(str(error).split())}.") from None


def _read_folder(folder: Path) -> dict[str, Any]:
    """The prompts of the reference's task files, TASK/TASK_test.yaml."""
    import yaml

    found = {}
    for path in sorted(folder.glob("*/*_test.yaml")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "!function" not in line]
        try:
            content = yaml.safe_load("\n".join(lines))
            found[path.parent.name] = str(content["lmms_eval_specific_kwargs"]["default"]["prompt"])
        except (yaml.YAMLError, KeyError, TypeError):
            raise BadInput(f"{path} must be a task file with lmms_eval_specific_kwargs.default.prompt.") from None
    if not set(found) & set(TASKS):
        raise BadInput(f"{str(folder)!r} must hold task files such as rtloc/rtloc_test.yaml; none is there.")
    return {task: text for task, text in found.items() if task in TASKS}


def prompt_of(row: Row, texts: Texts, frames: int = FRAMES) -> str:
    """What a model is asked about a row; `frames` are those that it is shown."""
    fields = _fields(row, row.task, frames, texts.variant)
    if row.task == "fgqa" and "{options}" not in texts.tasks["fgqa"]:
        fields["question"] = f"Question: {row.question}\nOptions:\n{fields['options']}\n{BEST_OPTION}"
    return _filled(texts.tasks[row.task], fields)


def _fields(row: Row, task: str, frames: int, variant: str, checked: bool = True) -> dict[str, str]:
    last = {"min_frame_idx": "0", "max_frame_idx": str(frames - 1), "num_frames": str(frames)}
    if task == "fgqa":
        letters = (f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(row.options))
        return {"question": row.question, "options": "\n".join(letters)}
    if task == "sgqa":
        return {"question": row.question}
    if task == "rdcap":
        return {"start_frame": "0", "end_frame": str(frames - 1), "total_frames": str(frames)}
    if task == "rtloc":
        return {"caption": row.stretches[0].caption if checked else "", **last}
    start, end, total = shown_frames(row, frames, variant) if checked else (0, 0, 0)
    return {"start_frame": str(start), "end_frame": str(end), "total_frames": str(total)}


def _filled(text: str, fields: Mapping[str, str]) -> str:
    """Fields replaced in one pass, so that braces in what is filled in stay as they are."""
    return _FIELD.sub(lambda match: fields.get(match.group(1), match.group(0)), text)


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """What a judge is asked.

    Attributes:
        kind: "answer" (yes or no) or "caption" (0 to 10).
        gold, predicted: what is compared.
        messages: to a model, roles and contents.
    """

    kind: str
    gold: str
    predicted: str
    messages: tuple[Message, ...] = ()


def judge_question(kind: str, gold: str, predicted: str, texts: Texts, question: str = "") -> JudgeQuestion:
    """The question to a judge in the words of a variant."""
    fields = {"question": question, "gold": gold, "predicted": predicted}
    both = texts.judges[kind]
    messages = tuple({"role": role, "content": _filled(both[role], fields)} for role in ("system", "user"))
    return JudgeQuestion(kind, gold, predicted, messages)


def plain_words(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def exact_reply(asked: JudgeQuestion) -> str:
    """What a judge would say that takes two texts for the same only if all their words are, in order."""
    same = plain_words(asked.gold) == plain_words(asked.predicted)
    return _reply(asked.kind, float(same), "the same words" if same else "other words")


def overlap_reply(asked: JudgeQuestion) -> str:
    """What a judge would say that counts common words (F1); yes from a half. For trials, not for reporting."""
    gold, predicted = Counter(plain_words(asked.gold)), Counter(plain_words(asked.predicted))
    common = (gold & predicted).total()
    share = 2 * common / (gold.total() + predicted.total()) if common else 0.0
    return _reply(asked.kind, share, f"{common} common words")


def _reply(kind: str, share: float, why: str) -> str:
    if kind not in JUDGES:
        raise one_of("kind", kind, JUDGES, owner="a judge")
    if kind == "answer":
        return json.dumps({"pred": "yes" if share >= 0.5 else "no", "score": round(5 * share)})
    return json.dumps({"score": round(10 * share), "explanation": why})


def questions_to_judge(row: Row, predicted: str | Sequence[str], texts: Texts) -> list[JudgeQuestion]:
    """All that a judge is asked about one row: one question, or every gold with every predicted caption.

    Args:
        predicted: the answer, or of rdcap the captions in it.
    """
    if row.task == "sgqa":
        return [judge_question("answer", row.answer, str(predicted), texts, row.question)]
    if row.task == "rcap":
        return [judge_question("caption", row.gold, str(predicted), texts)]
    if row.task == "rdcap":
        return [judge_question("caption", part.caption, one, texts) for part in row.stretches for one in predicted]
    return []

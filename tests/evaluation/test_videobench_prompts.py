"""Texts by name: ours, and published ones from files that a user has."""

from __future__ import annotations

from pathlib import Path

import pytest

from percepta.datasets.videobench import Row, Stretch
from percepta.errors import BadInput
from percepta.evaluation.videobench_prompts import (
    MAX_NEW_TOKENS,
    VARIANTS,
    judge_question,
    prompt_of,
    questions_to_judge,
    texts_of,
)

LOCATED = Row("rtloc", "1", total_frames=64, stretches=(Stretch(4, 20, "he {jumps}"),))
CHOICE = Row("fgqa", "2", question="where?", options=("here", "there"), answer="there")
REGION = Row("rcap", "3", total_frames=64, stretches=(Stretch(4, 20, "x"),))


def test_our_own_texts() -> None:
    texts = texts_of()
    assert "frames, numbered 0 to 31" in prompt_of(LOCATED, texts)
    assert '"he {jumps}"' in prompt_of(LOCATED, texts)
    assert prompt_of(CHOICE, texts).startswith("Question: where?\nOptions:\n(A) here\n(B) there\n")
    assert "of 32 frames" in prompt_of(REGION, texts)
    assert "from frame 2 to frame 10" in prompt_of(REGION, texts)
    asked = judge_question("answer", "gold {predicted}", "said", texts, "why?")
    assert [message["role"] for message in asked.messages] == ["system", "user"]
    assert "Right answer: gold {predicted}\nGiven answer: said" in asked.messages[1]["content"]
    assert '{"pred":' in asked.messages[1]["content"]


def test_published_texts_are_the_users(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="variant 'paper' are not packaged: pass prompts"):
        texts_of("paper")
    folder = tmp_path / "plm_videobench"
    for task, prompt in {
        "rcap": "In {total_frames} from {start_frame} to {end_frame}.",
        "fgqa": "{question}{answer}",
    }.items():
        (folder / task).mkdir(parents=True)
        lines = f"task: x\nuse: !function y.z\nlmms_eval_specific_kwargs:\n  default:\n    prompt: '{prompt}'\n"
        (folder / task / f"{task}_test.yaml").write_text(lines)
    texts = texts_of("lmms-eval", folder)
    assert prompt_of(REGION, texts) == "In 64 from 2 to 10."  # the length of the video, not of what is shown
    asked = prompt_of(CHOICE, texts)
    assert "(B) there" in asked
    assert asked.endswith("{answer}")  # left as it is by the reference too
    assert "packaged: sgqa, rtloc, rdcap, judge" in texts.source
    assert texts.fingerprint != texts_of().fingerprint


def test_an_answer_of_thirty_words_may_be_said() -> None:
    """The reference asks for 20 to 30 words about smart glasses and cuts them at 16 tokens."""
    limits = {variant: MAX_NEW_TOKENS[variant]["sgqa"] for variant in VARIANTS}
    assert limits == {"percepta": 96, "paper": 96, "lmms-eval": 16}
    for task, limit in {"fgqa": 16, "rcap": 512, "rtloc": 16, "rdcap": 512}.items():
        assert {MAX_NEW_TOKENS[variant][task] for variant in VARIANTS} == {limit}


def test_texts_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rtloc = "when? {caption}"\n')
    assert prompt_of(LOCATED, texts_of("paper", path)) == "when? he {jumps}"
    path.write_text('rtloc = "when? {caption} {frame}"\n')
    with pytest.raises(BadInput, match=r"a field of the text of rtloc of mine\.toml.*must be one of.*got 'frame'"):
        texts_of("paper", path)
    path.write_text("no toml")
    with pytest.raises(BadInput, match=r"mine\.toml must be a TOML file"):
        texts_of("paper", path)
    with pytest.raises(BadInput, match="there is no"):
        texts_of("paper", tmp_path / "gone.toml")
    with pytest.raises(BadInput, match="must hold task files"):
        texts_of("paper", tmp_path)
    with pytest.raises(BadInput, match="variant of PLM-VideoBench must be one of percepta, paper, lmms-eval"):
        texts_of("ours")


def test_what_a_judge_is_asked() -> None:
    texts = texts_of()
    dense = Row("rdcap", "4", total_frames=32, stretches=(Stretch(0, 9, "a"), Stretch(10, 31, "b")))
    pairs = [(one.gold, one.predicted) for one in questions_to_judge(dense, ("x", "y"), texts)]
    assert pairs == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert questions_to_judge(LOCATED, "[1, 2]", texts) == []
    assert questions_to_judge(CHOICE, "A", texts) == []

"""`percepta ask` and `percepta caption`: what they print and write, going on, and one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from percepta.apps.cli import answers, ask, run
from percepta.errors import BadInput
from percepta.results import Answer
from percepta.tasks import encoder
from tests.apps.conftest import Outcome
from tests.tasks import tiny_plm


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plm.folder(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tiny: Path) -> Any:
    def percepta(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([*map(str, arguments), "--model", str(tiny), "--tiles", "0"])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return percepta


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tiny_plm.pictures(tmp_path / "pictures", 3)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_plm.video(tmp_path / "clip.mp4")


def test_it_answers_in_words_or_json(call: Any, pictures: Path) -> None:
    done = call("ask", pictures / "0.png", "what is it?", "--max-tokens", 4, "--json")
    assert done.code == 0
    entry = json.loads(done.lines[0])
    assert entry["question"] == "what is it?"
    assert entry["source"] == str(pictures / "0.png")
    assert entry["visual_tokens"] == tiny_plm.TOKENS
    told = call("ask", pictures / "0.png", "what is it?", "--max-tokens", 4)
    assert told.out.rstrip("\n") == answers.plain(entry["text"])
    assert "cut off at its limit of tokens" in told.err
    both = call("ask", pictures / "0.png", "-q", "who?", "-q", "where?", "--max-tokens", 2)
    assert [line.split(" ")[0] for line in both.lines if "?" in line] == ["who?", "where?"]


def test_an_answer_as_it_is_made_is_the_same(call: Any, clip: Path) -> None:
    whole = call("ask", clip, "when?", "--max-tokens", 12)
    made = call("ask", clip, "when?", "--max-tokens", 12, "--stream")
    assert made.code == 0
    assert made.out.rstrip("\n") == whole.out.rstrip("\n") or whole.out.strip() == "(nothing)"


def test_several_pictures_together_or_each(call: Any, pictures: Path) -> None:
    files = [pictures / "0.png", pictures / "1.png"]
    (line,) = call("ask", *files, "what has changed?", "--max-tokens", 2, "--json").lines
    assert json.loads(line)["visual_tokens"] == 2 * tiny_plm.TOKENS
    assert len(call("ask", *files, "what is it?", "--each", "--max-tokens", 2, "--json").lines) == 2
    assert len(call("ask", pictures, "what is it?", "--max-tokens", 2, "--json").lines) == 3


def test_words_alone(call: Any) -> None:
    (line,) = call("ask", "what is two and two?", "--max-tokens", 2, "--json").lines
    assert json.loads(line)["source"] == ""


def test_lines_grow_and_are_gone_on_with(call: Any, pictures: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    asked = ("ask", pictures, "-q", "a?", "-q", "b?", "--max-tokens", 3)
    assert call(*asked, "-o", whole).code == 0
    assert call(*asked, "-o", part, "--limit", 2).code == 0
    assert whole.read_bytes().startswith(part.read_bytes())
    for cut in (10, len(part.read_bytes().splitlines(keepends=True)[-1]) + 5):
        part.write_bytes(part.read_bytes()[:-cut])  # as after a crash: within a line, and between the two of an input
        assert call(*asked, "-o", part).code == 2
        done = call(*asked, "-o", part, "--resume")
        assert done.code == 0, done.err
        assert part.read_bytes() == whole.read_bytes()
    assert "nothing is left to do" in call(*asked, "-o", part, "--resume").err
    other = call("ask", pictures, "c?", "--max-tokens", 3, "-o", part, "--resume")
    assert other.code == 2
    assert "was made with" in other.err
    part.write_text("no lines of ours\n")
    assert "holds more than answers of percepta" in call(*asked, "-o", part, "--resume").err


def test_captions_lines_and_subtitles(call: Any, pictures: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    asked = ("caption", pictures, clip, "--every", 1, "--max-tokens", 3, "--subtitles", "vtt", "-o", out)
    done = call(*asked)
    assert done.code == 0, done.err
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(entry["source"]).name for entry in entries] == ["0.png", "1.png", "2.png", "clip.mp4"]
    assert [(moment["start"], moment["end"]) for moment in entries[3]["moments"]] == [
        (0.0, 1.0),
        (1.0, pytest.approx(2.0, abs=0.01)),
    ]
    assert [path.name for path in (tmp_path / "captions.vtt").iterdir()] == ["clip.vtt"]
    assert (tmp_path / "captions.vtt" / "clip.vtt").read_text().startswith("WEBVTT\n")
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    assert "2 of 4 inputs were done before" in call(*asked, "--resume").err
    assert out.read_bytes() == b"".join(lines)


def test_subtitles_of_one_video(call: Any, pictures: Path, clip: Path, tmp_path: Path) -> None:
    assert call("caption", clip, "--dense", "--max-tokens", 8, "-o", tmp_path / "clip.srt").code == 0
    assert not list(tmp_path.glob(".*partial"))
    done = call("caption", pictures, "-o", tmp_path / "all.srt")
    assert done.code == 2
    assert "holds the subtitles of one video; got 3 inputs" in done.err
    assert call("caption", pictures / "0.png", "-o", tmp_path / "one.srt").code == 2


def test_captions_are_printed_with_their_names(call: Any, pictures: Path) -> None:
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:60])
    done = call("caption", pictures, "--max-tokens", 2)
    assert done.code == 1
    named = [line for line in done.lines if ".png: " in line]
    assert [line.split(": ")[0][-5:] for line in named] == ["0.png", "2.png"]
    assert "1.png" in done.err
    assert "1 input could not be used." in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask",), "ask needs a question, last and in quotes"),
        (("ask", "PICTURE"), "is a file or folder"),
        (("ask", "PICTURE", ""), "a question must have words"),
        (("ask", "PICTURE", "q", "--region", "1,2,3"), "--region must be X,Y,W,H"),
        (("ask", "PICTURE", "q", "--region", "500,2,3,3"), "a region must lie in"),
        (("ask", "FOLDER", "q", "--stream"), "--stream shows one answer"),
        (("ask", "PICTURE", "q", "--limit", "2"), "--limit is for many inputs"),
        (("ask", "PICTURE", "q", "--resume"), "--resume is for many inputs"),
        (("ask", "PICTURE", "q", "--max-tokens", "9999"), "max_tokens must be at most"),
        (("ask", "missing.png", "q"), "does not exist"),
        (("ask", "CLIP", "q", "--start", "2", "--end", "1"), "start must lie before end"),
        (("ask", "CLIP", "q", "--start", "20"), "a clip cannot begin at 20 s"),
        (("caption", "CLIP", "-o", "x.txt"), "the output must end in"),
        (("caption", "CLIP", "--subtitles", "ass", "-o", "x.jsonl"), "--subtitles must be one of srt, vtt"),
        (("caption", "CLIP", "--subtitles", "srt"), "--subtitles goes with -o FILE.jsonl"),
        (("caption", "CLIP", "--about", "it"), "about goes with dense"),
        (("caption", "CLIP", "--resume"), "--resume needs -o FILE.jsonl"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    call: Any, pictures: Path, clip: Path, arguments: tuple[str, ...], said: str
) -> None:
    names = {"PICTURE": pictures / "0.png", "FOLDER": pictures, "CLIP": clip}
    done = call(*[names.get(word, word) for word in arguments])
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err


def test_missing_weights_and_wrong_files(
    capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["ask", str(pictures / "0.png"), "what?", "--model", "plm-1b"]) == 2
    assert "the weights of plm-1b are not on this machine" in capsys.readouterr().err
    assert run(["ask", str(pictures / "0.png"), "what?", "--model", "plm-10b"]) == 2
    assert "did you mean" in capsys.readouterr().err
    (tmp_path / "wrong.safetensors").write_bytes(b"not weights")
    arguments = ["ask", str(pictures / "0.png"), "what?", "--model", "plm-nano"]
    assert run([*arguments, "--weights", str(tmp_path / "wrong.safetensors")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_toy_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_told", set())
    with pytest.warns(encoder.ToyModelWarning, match="model='plm-1b'") as caught:
        encoder.warn_of_toy("plm-nano")
    assert "pass --model plm-1b" in caught[0].message.on_command_line  # type: ignore[union-attr]


def test_words_of_a_model_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.plain("a\x1b[2Jb\nc") == "a\\x1b[2Jb\nc"
    assert answers.plain(" ") == "(nothing)" or answers.plain(" ") == " "
    assert ask.plain_piece("a\x1bb\n c") == "a\\x1bb\n c"
    answers.print_answer(Answer("a.png", "q?", "x", samples=("x", "y")), name=True, question=True)
    assert capsys.readouterr().out == "a.png: q? (1) x\na.png: q? (2) y\n"


def test_the_last_word_is_the_question(tmp_path: Path) -> None:
    assert ask.split(["a.png", "b.png", "what?"], []) == (["a.png", "b.png"], ["what?"])
    assert ask.split(["a.png"], ["what?"]) == (["a.png"], ["what?"])
    assert ask.split(["what?"], []) == ([], ["what?"])
    assert ask.split(["why? " * 200], []) == ([], ["why? " * 200])  # longer than any name
    with pytest.raises(BadInput, match="'who is it\\?' is no file; ask several with -q TEXT"):
        ask.split(["a.png", "who is it?", "where?"], [])
    with pytest.raises(BadInput, match="is a file or folder"):
        ask.split([str(tmp_path)], [])

"""Asking about pictures, videos and words: what is shown, what is asked, what comes back, what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from percepta.datasets.scenes import TEST_SEED_START, SceneConfig, make_scene
from percepta.datasets.scenes.questions import scene_questions
from percepta.errors import BadInput, BadMedia
from percepta.models.perception_lm import Generated, Token
from percepta.results import Answer, Boxes, Tracks
from percepta.tasks.ask import ask
from percepta.tasks.asking import AnswerStream, Speaker
from tests.tasks import tiny_plm


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(tiny_plm.model())


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    tiny_plm.pictures(folder / "pictures", 3)
    tiny_plm.video(folder / "clip.mp4")
    return folder


def scripted(speaker: Speaker, monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[Any]:
    """The model says these texts, one after the other, whatever it is asked; gives what it was asked."""
    asked: list[Any] = []
    says = iter(texts)

    def generate(prompts: Any, media: Any, settings: Any, decode: Any) -> list[Generated]:
        asked.append((prompts, media, settings))
        return [
            Generated(number, sample, (1, 2), next(says), "stop token", (-0.5, -1.5))
            for number in range(len(prompts))
            for sample in range(settings.samples)
        ]

    def stream(prompts: Any, media: Any, settings: Any, decode: Any) -> Any:
        text = next(says)
        for place, letter in enumerate(text):
            yield Token(0, 0, ord(letter), -1.0, letter, "stop token" if place == len(text) - 1 else "")

    monkeypatch.setattr(speaker.model, "generate", generate, raising=False)
    monkeypatch.setattr(speaker.model, "stream", stream, raising=False)
    return asked


def decoded(speaker: Speaker, prompt: Any) -> str:
    return speaker.chat.decode([int(token) for token in prompt.tokens if token != speaker.chat.image_token])


def test_a_picture_is_tiled_and_a_video_sampled(speaker: Speaker, media: Path) -> None:
    answer = ask(media / "pictures" / "0.png", "what is it?", max_tokens=4, model=speaker)
    assert isinstance(answer, Answer)
    assert answer.visual_tokens == 7 * tiny_plm.TOKENS  # a thumbnail and 6 tiles
    assert answer.frames == ()
    assert answer.logprob is not None
    assert answer.logprob < 0
    answer = ask(media / "clip.mp4", "what happens?", max_tokens=4, model=speaker)
    assert answer.visual_tokens == 8 * tiny_plm.TOKENS
    assert len(answer.frames) == 8
    assert answer.span == (0.0, pytest.approx(2.0, abs=0.01))


def test_the_budget_makes_tiles_and_frames_fewer(speaker: Speaker, media: Path) -> None:
    picture, clip = media / "pictures" / "0.png", media / "clip.mp4"
    for tokens, chunks in ((4, 1), (8, 2), (19, 2), (28, 7)):  # of three tiles, one fits the picture's shape best
        answer = ask(picture, "?", visual_tokens=tokens, max_tokens=1, model=speaker)
        assert answer.visual_tokens <= tokens
        assert answer.visual_tokens >= chunks * tiny_plm.TOKENS
    assert len(ask(clip, "?", visual_tokens=13, max_tokens=1, model=speaker).frames) == 3
    assert len(ask(clip, "?", frames=5, max_tokens=1, model=speaker).frames) == 5
    assert ask(picture, "?", tiles=0, max_tokens=1, model=speaker).visual_tokens == tiny_plm.TOKENS
    merged = ask(picture, "?", chunk_tokens=1, max_tokens=1, model=speaker)
    assert merged.visual_tokens == 7
    assert len(ask(clip, "?", chunk_tokens=2, visual_tokens=13, max_tokens=1, model=speaker).frames) == 6
    with pytest.raises(BadInput, match="chunk_tokens of plm-tiny-test must be 1 to 4"):
        ask(picture, "?", chunk_tokens=5, model=speaker)
    with pytest.raises(BadInput, match="visual_tokens must be 4 or more"):
        ask(picture, "?", visual_tokens=3, model=speaker)


def test_it_says_what_the_model_says(speaker: Speaker, media: Path) -> None:
    """The verb's answer is the model's own, for the prompt and the pixels of the published layout."""
    from percepta.models.perception_lm import GenerationSettings
    from percepta.models.perception_lm.chat import generation_prompt

    picture = Image.open(media / "pictures" / "1.png")
    shown = speaker.model.preprocess(picture)
    prompt = generation_prompt(speaker.chat, "what is it?", len(shown.pixels))
    with torch.inference_mode():
        (want,) = speaker.model.generate(
            [prompt], [shown.pixels], GenerationSettings(max_tokens=12), speaker.chat.tokenizer.decode
        )
    got = ask(picture, "what is it?", max_tokens=12, model=speaker)
    assert got.said == want.text.strip() or got.said == got.text
    assert got.logprob == pytest.approx(np.mean(want.logprobs), abs=1e-5)


def test_several_questions_see_the_picture_once(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(speaker, monkeypatch, "red", "left")
    encoded: list[int] = []
    encode = speaker.model.encode_media

    def counted(chunks: torch.Tensor, *rest: Any) -> torch.Tensor:
        encoded.append(len(chunks))
        return encode(chunks, *rest)

    monkeypatch.setattr(speaker.model, "encode_media", counted, raising=False)
    answers = ask(media / "pictures" / "0.png", ["which colour?", "which side?"], model=speaker)
    assert [str(answer) for answer in answers] == ["red", "left"]
    assert [answer.question for answer in answers] == ["which colour?", "which side?"]
    assert sum(encoded) == 7
    (prompts, features, _) = asked[0]
    assert len(prompts) == 2
    assert features[0] is features[1]  # the same tensor, so that the model shares their beginning


def test_several_pictures_are_one_question(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(speaker, monkeypatch, "nothing")
    files = [media / "pictures" / "0.png", media / "pictures" / "1.png"]
    answer = ask(files, "what has changed?", model=speaker)
    assert answer.visual_tokens == 2 * tiny_plm.TOKENS
    assert answer.source == f"{files[0]}, {files[1]}"
    assert int(asked[0][0][0].pictures.sum()) == 8
    with pytest.raises(BadInput, match="is a video among 2 inputs"):
        ask([files[0], media / "clip.mp4"], "?", model=speaker)
    with pytest.raises(BadInput, match="enough for 1 pictures; got 2"):
        ask(files, "?", visual_tokens=4, model=speaker)


def test_words_alone(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(speaker, monkeypatch, "four")
    answer = ask(None, "what is two and two?", model=speaker)
    assert (answer.source, answer.visual_tokens, answer.text) == ("", 0, "four")
    assert not asked[0][0][0].pictures.any()
    assert "what is two and two?" in decoded(speaker, asked[0][0][0])
    with pytest.raises(BadInput, match="region is for a picture or a video"):
        ask(None, "?", region=(0, 0, 1, 1), model=speaker)


def test_frames_become_seconds(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(speaker, monkeypatch, " It moves in [2, 4]. ")
    answer = ask(media / "clip.mp4", "when?", frames=8, model=speaker)
    (moment,) = answer.moments
    assert answer.said == "It moves in [2, 4]."
    assert answer.text == f"It moves in [{moment.start:.1f} s, {moment.end:.1f} s]."
    assert (moment.start, moment.end) == (answer.frames[2], answer.frames[5])


def test_an_answer_as_it_is_made(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = " In frame 3 it stops [2, 9] "
    scripted(speaker, monkeypatch, said, said)
    pieces = ask(media / "clip.mp4", "when?", model=speaker, stream=True)
    assert isinstance(pieces, AnswerStream)
    shown = list(pieces)
    assert len(shown) > 5
    assert "".join(shown) == pieces.answer.text
    assert pieces.answer.text == ask(media / "clip.mp4", "when?", model=speaker).text
    assert pieces.answer.finish == "stop"
    assert not torch.is_inference_mode_enabled()
    assert list(pieces) == []


def test_asking_for_the_answer_early_goes_on_to_the_end(speaker: Speaker, media: Path) -> None:
    pieces = ask(media / "clip.mp4", "when?", max_tokens=6, model=speaker, stream=True)
    assert pieces.answer.text == ask(media / "clip.mp4", "when?", max_tokens=6, model=speaker).text
    assert not pieces.answer.complete


def test_regions_are_words_on_pictures(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(speaker, monkeypatch, "a cup", "a cup")
    picture = media / "pictures" / "0.png"  # 60 x 40
    ask(picture, "what is it?", region=(6, 10, 30, 40), model=speaker)
    assert "In the region [100,250,600,999]: what is it?" in decoded(speaker, asked[0][0][0])
    ask(picture, "what is in <|bbox0|>?", region=(6, 10, 30, 20), model=speaker)
    assert "what is in [100,250,600,750]?" in decoded(speaker, asked[1][0][0])


def test_regions_are_red_boxes_on_frames(speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = media / "clip.mp4"
    shown: list[torch.Tensor] = []
    encode = speaker.encode

    def seen(pixels: torch.Tensor, what: Any) -> torch.Tensor:
        shown.append(pixels)
        return encode(pixels, what)

    monkeypatch.setattr(speaker, "encode", seen)
    plain = ask(clip, "?", max_tokens=1, model=speaker)
    ask(clip, "?", region=(20, 10, 30, 30), max_tokens=1, model=speaker)
    redder = (shown[1][:, 0] - shown[0][:, 0]).flatten(1).amax(1)
    assert (redder > 0.2).all()
    first, second = (round(plain.frames[number] * 10) for number in (0, 2))
    boxes = Boxes("clip", np.array([(20, 10, 50, 40)] * 2, np.float32))
    tracks = Tracks("clip", np.array([first, second]), np.array([1, 1]), boxes)
    ask(clip, "?", region=tracks, max_tokens=1, model=speaker)
    redder = (shown[2][:, 0] - shown[0][:, 0]).flatten(1).amax(1)
    assert (redder > 0.2).tolist() == [True, False, True, *[False] * 5]


def test_samples_are_drawn_with_a_seed(speaker: Speaker, media: Path) -> None:
    picture = media / "pictures" / "0.png"
    first = ask(picture, "?", samples=3, max_tokens=8, model=speaker, seed=1)
    assert len(first.samples) == 3
    assert len(set(first.samples)) > 1
    assert first.samples[0] == first.text
    assert ask(picture, "?", samples=3, max_tokens=8, model=speaker, seed=1).samples == first.samples
    assert ask(picture, "?", samples=3, max_tokens=8, model=speaker, seed=2).samples != first.samples
    with pytest.raises(BadInput, match="would all be the same"):
        ask(picture, "?", samples=2, temperature=0, model=speaker)


def test_a_folder_is_asked_one_by_one(speaker: Speaker, media: Path, tmp_path: Path) -> None:
    folder = tiny_plm.pictures(tmp_path / "some", 2)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:50])
    stream = ask(folder, "what?", max_tokens=4, model=speaker)
    answers = list(stream)
    assert [Path(answer.source).name for answer in answers] == ["0.png", "1.png"]
    assert [Path(failure.source).name for failure in stream.failures] == ["broken.png"]
    alone = ask(folder / "1.png", "what?", max_tokens=4, model=speaker)
    assert answers[1].text == alone.text
    pairs = list(ask([folder / "0.png", folder / "1.png"], ["a?", "b?"], each=True, max_tokens=2, model=speaker))
    assert [[answer.question for answer in pair] for pair in pairs] == [["a?", "b?"]] * 2
    with pytest.raises(BadMedia, match="damaged"):
        list(ask(folder, "what?", max_tokens=4, model=speaker, on_error="raise"))


def test_a_batch_that_does_not_fit_into_memory_comes_in_parts(
    speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, tried = speaker.encode, []

    def small(pixels: torch.Tensor, seen: Any) -> torch.Tensor:
        tried.append(len(pixels))
        if len(pixels) > 1:
            raise RuntimeError("out of memory")
        return encode(pixels, seen)

    monkeypatch.setattr(speaker, "encode", small)
    stream = ask(media / "pictures", "what?", tiles=0, max_tokens=2, model=speaker, batch_size=3)
    assert len(list(stream)) == 3
    assert not stream.failures
    assert max(tried) > 1


def test_clips_of_a_video(speaker: Speaker, media: Path) -> None:
    clip = media / "clip.mp4"
    answer = ask(clip, "?", start=0.5, end=1.0, max_tokens=1, model=speaker)
    assert answer.span == (0.5, 1.0)
    assert min(answer.frames) >= 0.5
    assert max(answer.frames) <= 1.0
    with pytest.raises(BadInput, match="which is no clip"):
        ask(clip, "?", start=1, end=1, model=speaker)
    with pytest.raises(BadInput, match=r"lasts 2\.00 s; a clip cannot begin at 9 s"):
        ask(clip, "?", start=9, model=speaker)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert ask(clip, "?", end=9, max_tokens=1, model=speaker).span == (0.0, pytest.approx(2.0, abs=0.01))
    assert any("looked at up to there" in str(warning.message) for warning in caught)
    with pytest.raises(BadInput, match="start is for videos"):
        ask(media / "pictures" / "0.png", "?", start=1, model=speaker)


def test_what_does_not_fit_is_refused_before_anything_is_computed(
    speaker: Speaker, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "encode", lambda *pixels: pytest.fail("computed"))
    with pytest.raises(BadInput, match=r"takes .* tokens \(28 of them visual\), and plm-tiny-test holds 512"):
        ask(media / "pictures" / "0.png", "word " * 200, model=speaker)
    with pytest.raises(BadInput, match="max_tokens must be at most"):
        ask(media / "pictures" / "0.png", "what?", max_tokens=5000, model=speaker)
    for question in ("", "  \n", [], ["a", ""], 7):
        with pytest.raises(BadInput, match="a question must"):
            ask(media / "pictures" / "0.png", question, model=speaker)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"frames": 0}, "frames must be a whole number of 1 or more"),
        ({"tiles": -1}, "tiles must be a whole number of 0 or more"),
        ({"start": -1}, "start must be seconds"),
        ({"region": (1, 2, 3)}, "four finite numbers"),
        ({"region": (1, 2, 0, 4)}, "a width and a height above 0"),
        ({"region": (100, 2, 3, 4)}, "a region must lie in"),
        ({"region": {0: (1, 2, 3, 4)}}, "is a picture, whose region"),
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"samples": 0}, "samples must be a whole number"),
        ({"stream": True, "samples": 2}, "an answer as it is made is one"),
        ({"stream": True, "each": True}, "stream gives one answer"),
    ],
)
def test_settings_out_of_range(speaker: Speaker, media: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask(media / "pictures" / "0.png", "what?", model=speaker, **given)


def test_what_cannot_be_read(speaker: Speaker, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(BadMedia, match="is no picture or video"):
        ask(tmp_path / "words.png", "what?", model=speaker)
    with pytest.raises(BadMedia, match="does not exist"):
        ask(tmp_path / "missing.png", "what?", model=speaker)


def test_a_picture_far_from_square(speaker: Speaker) -> None:
    wide = np.zeros((4, 3000, 3), np.uint8)
    assert ask(wide, "?", max_tokens=1, model=speaker).visual_tokens == 7 * tiny_plm.TOKENS


@pytest.mark.filterwarnings("ignore::percepta.tasks.encoder.ToyModelWarning")
def test_the_packaged_toy_sees_what_it_is_asked_about() -> None:
    right = []
    for seed in range(TEST_SEED_START, TEST_SEED_START + 8):
        scene = make_scene(seed, SceneConfig(64))
        asked = [one for one in scene_questions(scene, seed) if one.kind in ("colour", "shape")]
        said = ask(scene.picture, [one.question for one in asked], max_tokens=4)
        right += [answer.text == one.answer for answer, one in zip(said, asked, strict=True)]
    assert sum(right) > 0.8 * len(right)  # guessing: an eighth

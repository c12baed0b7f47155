"""Judges: an endpoint over HTTP, rules, what remembers replies, many at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from percepta.errors import BadInput
from percepta.evaluation.videobench_prompts import JudgeQuestion, judge_question, texts_of
from percepta.tasks.judges import (
    DELAYS,
    ChatJudge,
    JudgeFailed,
    Remembering,
    RuleJudge,
    append_line,
    ask_all,
    judge_of,
    read_lines,
    table_judge,
)


class Endpoint(BaseHTTPRequestHandler):
    """Says back what it is told to, after as many refusals as it is told to."""

    refusals: list[int] = []
    seen: list[dict[str, Any]] = []
    body = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **asked})
        code = self.refusals.pop(0) if self.refusals else 200
        content = "slow down" if code != 200 else self.body or _chat("yes: " + asked["messages"][-1]["content"])
        self.send_response(code)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: Any) -> None:
        return


def _chat(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.refusals, Endpoint.seen, Endpoint.body = [], [], ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def asked(text: str = "p") -> JudgeQuestion:
    return JudgeQuestion("answer", "g", text, ({"role": "system", "content": "s"}, {"role": "user", "content": text}))


def test_an_endpoint_is_asked_as_documented(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("PERCEPTA_JUDGE_KEY", raising=False)
    judge = judge_of(f"{endpoint}#some-model")
    assert judge.name == "some-model"
    assert judge.reply(asked()) == "yes: p"
    (seen,) = Endpoint.seen
    assert seen["path"] == "/v1/chat/completions"
    assert (seen["model"], seen["temperature"], seen["max_tokens"], seen["key"]) == ("some-model", 0, 256, None)
    assert [message["role"] for message in seen["messages"]] == ["system", "user"]
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("PERCEPTA_JUDGE_KEY", "two")
    judge.reply(asked())
    assert Endpoint.seen[-1]["key"] == "Bearer two"


def test_rate_limits_are_waited_out(endpoint: str) -> None:
    waited: list[float] = []
    judge = ChatJudge(endpoint, "m", wait=waited.append)
    Endpoint.refusals = [429] * 5
    assert judge.reply(asked()) == "yes: p"
    assert tuple(waited) == DELAYS == (1, 2, 4, 8, 16)
    Endpoint.refusals = [429] * 6
    with pytest.raises(JudgeFailed, match="met rate limits 6 times"):
        judge.reply(asked())


def test_other_errors_end_the_run(endpoint: str) -> None:
    waited: list[float] = []
    judge = ChatJudge(endpoint, "m", wait=waited.append)
    Endpoint.refusals = [500]
    with pytest.raises(JudgeFailed, match="refused with 500: slow down"):
        judge.reply(asked())
    Endpoint.body = '{"error": 1}'
    with pytest.raises(JudgeFailed, match="must answer as a chat does"):
        judge.reply(asked())
    Endpoint.body = json.dumps({"choices": [{"message": {"content": [{"type": "text", "text": "yes"}]}}]})
    with pytest.raises(JudgeFailed, match="must answer in words; got list"):
        judge.reply(asked())
    Endpoint.body = json.dumps({"choices": [{"message": {"content": None}}]})
    assert judge.reply(asked()) == ""
    with pytest.raises(JudgeFailed, match="cannot be reached"):
        ChatJudge("http://127.0.0.1:9/v1", "m").reply(asked())
    assert waited == []


def test_replies_are_remembered_over_runs(tmp_path: Path) -> None:
    calls: list[str] = []

    def rule(question: JudgeQuestion) -> str:
        calls.append(question.predicted)
        if question.predicted == "broken":
            raise JudgeFailed("no more.")
        return f"of {question.predicted}"

    path = tmp_path / "judgements.jsonl"
    first = Remembering(RuleJudge("rule", rule, 2), path)
    questions = [asked(text) for text in ("a", "b", "a", "broken", "c")]
    with pytest.raises(JudgeFailed, match="no more"):
        list(ask_all(first, questions))
    with path.open("ab") as file:
        file.write(b'{"key": "torn')  # killed while it wrote
    known = {record["predicted"] for record in read_lines(path)}
    assert {"a", "b"} <= known
    assert path.read_bytes().endswith(b"}\n")
    calls.clear()
    again = Remembering(RuleJudge("rule", rule, 2), path)
    assert asked("a") in again
    assert list(ask_all(again, [asked(text) for text in ("a", "b", "a", "c")])) == ["of a", "of b", "of a", "of c"]
    assert set(calls) == {"c"} - known
    assert asked("a") not in Remembering(RuleJudge("another", rule), path)  # another judge says other things


def test_a_file_that_was_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_line(path, {"key": "a", "reply": "ü\ud800"})
    assert read_lines(path)[0]["reply"] == "ü\ud800"
    for line in ("no", "[1]", "7", "[" * 100_000):
        path.write_text(f"{{}}\n{line}\n")
        with pytest.raises(BadInput, match="line 2 must be a JSON object"):
            read_lines(path)


def test_no_more_are_asked_at_once_than_a_judge_takes() -> None:
    running, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(3)

    def rule(question: JudgeQuestion) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(20)  # passes only where three are asked at once
        with lock:
            running[0] -= 1
        return question.predicted

    words = [str(number) for number in range(24)]
    assert list(ask_all(RuleJudge("rule", rule, 3), [asked(word) for word in words])) == words
    assert most[0] == 3


def test_rules_and_names() -> None:
    answer = judge_question("answer", "A red star.", "a  RED star", texts_of())
    assert json.loads(judge_of("exact").reply(answer))["pred"] == "yes"
    half = JudgeQuestion("caption", "a red star", "a blue star")
    assert json.loads(judge_of("exact").reply(half))["score"] == 0
    assert json.loads(judge_of("overlap").reply(half))["score"] == 7
    assert table_judge({("g", "p"): "known"}).reply(asked()) == "known"
    assert judge_of("local:some/model").name == "some/model"
    for name in ("exakt", "http://host/v1", "local:"):
        with pytest.raises(BadInput, match="judge"):
            judge_of(name)


def test_a_model_on_this_machine(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["<end>", "s", "p", "q"])}, "<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    config = LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=300, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = judge_of(f"local:{tmp_path}")
    with pytest.raises(JudgeFailed, match="its tokenizer has no chat template"):
        judge.reply(asked())
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    judge = judge_of(f"local:{tmp_path}")
    first = judge.reply(asked())
    assert set(first.split()) <= {"s", "p", "q"}
    assert judge.reply(asked()) == first  # greedy
    with pytest.raises(JudgeFailed, match="cannot be loaded"):
        judge_of(f"local:{tmp_path / 'gone'}").reply(asked())

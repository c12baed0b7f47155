"""Judges of free answers: an endpoint, a local language model, or plain rules, behind one call; asked many at once.

Order of this file: the protocol, judges, what remembers replies, asking many, judges by name.
Unusual: what a judge said is kept in a file as it is said, by a hash of the judge and the messages, so that a run that
was killed asks nothing twice. Keys come from the environment alone. Only rate limits are tried again; any other error
ends the run, and what is known stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from percepta.errors import BadInput, PerceptaError, one_of, out_of_range
from percepta.evaluation.videobench_prompts import JudgeQuestion, exact_reply, overlap_reply

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before a request that met a rate limit is sent again
MAX_TOKENS = 256
KEYS = ("PERCEPTA_JUDGE_KEY", "OPENAI_API_KEY")
"""Where a key is looked for, the first one first; an endpoint on this machine may need none."""
TIMEOUT = 120.0  # seconds
RATE_LIMITED = 429


class JudgeFailed(PerceptaError, RuntimeError):
    """A judge that could not be asked; what it said before is kept."""


class Judge(Protocol):
    """What gives replies.

    Attributes:
        name: goes into the hash of the protocol and of every reply, with all that changes what is said.
        concurrency: how many questions it takes at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    def reply(self, asked: JudgeQuestion) -> str:
        """What it says, word for word. Called from several threads. Raises JudgeFailed."""
        ...


@dataclass(frozen=True, slots=True)
class RuleJudge:
    """A judge that is no model: a rule over gold and predicted words."""

    name: str
    rule: Callable[[JudgeQuestion], str]
    concurrency: int = 1

    def reply(self, asked: JudgeQuestion) -> str:
        """What the rule says."""
        return self.rule(asked)


def table_judge(replies: Mapping[tuple[str, str], str], name: str = "table") -> RuleJudge:
    """A judge that looks up (gold, predicted), and says nothing about what is not there."""
    return RuleJudge(name, lambda asked: replies.get((asked.gold, asked.predicted), ""))


@dataclass(frozen=True, slots=True)
class ChatJudge:
    """A model behind an endpoint that speaks OpenAI's chat protocol (vLLM, llama.cpp, hosted ones).

    Args:
        url: the base, such as "http://localhost:8000/v1".
        model: as the endpoint calls it, such as "meta-llama/Llama-3.3-70B-Instruct".
        concurrency: requests at once.
        wait: sleeps so many seconds; for tests.
    """

    url: str
    model: str
    concurrency: int = 8
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.model:
            raise BadInput(f"a judge must be URL#MODEL, such as http://localhost:8000/v1#NAME; got {self.url!r}.")
        if self.concurrency < 1:
            raise out_of_range("concurrency", self.concurrency, "1 or more", owner="a judge")

    @property
    def name(self) -> str:
        """The model; where it runs changes nothing."""
        return self.model

    def reply(self, asked: JudgeQuestion) -> str:
        """Greedy, at most 256 tokens; sent again after 1, 2, 4, 8 and 16 s where a rate limit was met."""
        body = {"model": self.model, "messages": list(asked.messages), "temperature": 0, "max_tokens": MAX_TOKENS}
        for delay in (*DELAYS, None):
            try:
                return self._sent(body)
            except urllib.error.HTTPError as error:
                if error.code != RATE_LIMITED:
                    said = error.read(300).decode("utf-8", "replace").strip()
                    raise JudgeFailed(f"the judge at {self.url} refused with {error.code}: {said[:200]}.") from None
                if delay is None:
                    break
                self.wait(delay)
            except (urllib.error.URLError, OSError) as error:
                raise JudgeFailed(f"the judge at {self.url} cannot be reached: {error}; run again to go on.") from None
        raise JudgeFailed(f"the judge at {self.url} met rate limits {len(DELAYS) + 1} times; run again to go on.")

    def _sent(self, body: Mapping[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            content = answer.read()
        try:
            said = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise JudgeFailed(f"the judge at {self.url} must answer as a chat does; got {content[:120]!r}.") from None
        if not isinstance(said, str | None):
            raise JudgeFailed(f"the judge at {self.url} must answer in words; got {type(said).__name__}.")
        return said or ""


class LocalJudge:
    """A language model of `transformers` on this machine.

    Args:
        model: a name on the hub, or a folder.
        device: such as "cpu" or "cuda".
    """

    concurrency = 1

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.name, self.device = model, device
        self._loaded: Any = None
        self._lock = threading.Lock()

    def reply(self, asked: JudgeQuestion) -> str:
        """Greedy, at most 256 tokens."""
        import torch

        with self._lock, torch.inference_mode():
            tokenizer, model = self._ready()
            tokens = tokenizer.apply_chat_template(
                list(asked.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self.device)
            padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            found = model.generate(**tokens, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=padding)
            said = tokenizer.decode(found[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
            return str(said).strip()

    def _ready(self) -> Any:
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self.name)
                model: Any = AutoModelForCausalLM.from_pretrained(self.name, dtype="auto")
                model = model.to(self.device).eval()
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise JudgeFailed(f"the judge {self.name} cannot be loaded: {reason}.") from None
            if tokenizer.chat_template is None:
                raise JudgeFailed(f"the judge {self.name} must be a chat model; its tokenizer has no chat template.")
            self._loaded = tokenizer, model
        return self._loaded


class Remembering:
    """A judge whose replies are kept in a file, one line each, as they come.

    Args:
        judge: asked for what is not known.
        path: made where it is not there; a last line that was cut off by a kill is dropped.

    Attributes:
        asked: how many questions went to the judge.
        known: how many replies are in the file.
    """

    def __init__(self, judge: Judge, path: str | Path) -> None:
        self.judge, self.path = judge, Path(path)
        self.name, self.concurrency = judge.name, judge.concurrency
        self.asked = 0
        self._replies = {record["key"]: record["reply"] for record in read_lines(self.path)}
        self._lock = threading.Lock()

    @property
    def known(self) -> int:
        """Replies at hand."""
        return len(self._replies)

    def key(self, asked: JudgeQuestion) -> str:
        """The hash of judge and messages; of gold and predicted words too, for judges that look at these."""
        content = [self.name, asked.kind, asked.gold, asked.predicted, list(asked.messages)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __contains__(self, asked: JudgeQuestion) -> bool:
        return self.key(asked) in self._replies

    def reply(self, asked: JudgeQuestion) -> str:
        """The reply that is known, else the judge's."""
        key = self.key(asked)
        if key not in self._replies:
            said = self.judge.reply(asked)
            with self._lock:
                self.asked += 1
                self._replies[key] = said
                record = {"key": key, "judge": self.name, "kind": asked.kind, "gold": asked.gold}
                append_line(self.path, {**record, "predicted": asked.predicted, "reply": said})
        return self._replies[key]


def ask_all(judge: Judge, questions: Sequence[JudgeQuestion]) -> Iterator[str]:
    """The replies to many questions in their order, as many at once as the judge takes; equal ones are asked once.

    Raises: JudgeFailed for the first that fails; those that are under way are waited for, so that they are kept.
    """
    places: dict[tuple[str, str, str, str], list[int]] = {}
    for place, asked in enumerate(questions):
        words = json.dumps(asked.messages)
        places.setdefault((asked.kind, asked.gold, asked.predicted, words), []).append(place)
    waiting = iter([(members[0], members) for members in places.values()])
    found: dict[int, str] = {}
    running: dict[Future[str], list[int]] = {}
    told = 0
    with ThreadPoolExecutor(judge.concurrency) as pool:
        while told < len(questions):
            while len(running) < 2 * judge.concurrency and (following := next(waiting, None)) is not None:
                running[pool.submit(judge.reply, questions[following[0]])] = following[1]
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            failed = [one for one in done if one.exception() is not None]
            if failed:
                for one in running:
                    one.cancel()
                raise failed[0].exception() or JudgeFailed("the judge failed.")
            for one in done:
                found |= dict.fromkeys(running.pop(one), one.result())
            while told in found:
                yield found.pop(told)
                told += 1


RULES = {"exact": exact_reply, "overlap": overlap_reply}


def judge_of(name: str, device: str = "cpu", concurrency: int = 8) -> Judge:
    """A judge by name.

    Args:
        name: "exact" (same words), "overlap" (common words, for trials), "local:MODEL" (of transformers), or URL#MODEL
            (an endpoint that speaks OpenAI's chat protocol; its key from PERCEPTA_JUDGE_KEY or OPENAI_API_KEY).
        device: of a local model.
        concurrency: requests at once of an endpoint.

    Raises: BadInput for another name.
    """
    if name in RULES:
        return RuleJudge(name, RULES[name])
    kind, _, rest = name.partition(":")
    if kind == "local" and rest:
        return LocalJudge(rest, device)
    if kind in ("http", "https"):
        url, _, model = name.partition("#")
        return ChatJudge(url, model, concurrency)
    raise one_of("judge", name, (*RULES, "local:MODEL", "URL#MODEL"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where it is not there. A torn last line is cut off the file.

    Raises: BadInput for any other line that is no record.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    records = []
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise BadInput(f"{path} line {number} must be a JSON object; remove the file to begin again.")
        records.append(record)
    return records


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record to a file of JSON lines, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

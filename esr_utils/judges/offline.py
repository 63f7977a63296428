"""The judge that needs no key: restarts from the gate, scores from two small local models.

An attempt's score is relevance x fluency. Relevance is how near the text is to its question in a sentence embedding;
fluency falls with text that the reading model finds unlikely (word salad) and with text that repeats itself (loops).
Both curves are fitted to scores that readers gave by a rubric (``judge_fitting``), so the scale is the rubric's.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from esr_utils.config import DATA
from esr_utils.embedding import embed
from esr_utils.engines.hf import HFEngine
from esr_utils.judges.restarts import attempt_spans, find_restarts
from esr_utils.judging import Attempt, Case, Verdict
from esr_utils.prompts import load_prompts
from esr_utils.steering import READING, Row
from esr_utils.topicality import READ_TOKENS, Topicality

SCALES = DATA / "judge" / "scales.json"
WAYS = ("embedding", "likelihood")
PART_WORDS = 120  # read at once by the embedding, which sees 256 tokens
WINDOW_WORDS = 24  # of the curve from which recovery is told
REPEAT_WORDS = 4  # a loop repeats stretches of so many words
RECOVERY_GAIN = 0.05  # rise in relevance that makes one point of recovery

Relevance = Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, " text"]]  # questions, texts


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From what is measured of a text to the rubric's 0 to 100.

    Attributes:
        top: highest share of 100 that is reached.
        relevance_slope, relevance_middle: of the logistic curve of relevance.
        fluency_slope, fluency_middle: of the logistic curve of mean log-likelihood (nats a token).
        distinct_enough: share of distinct four-word stretches below which the score shrinks.
    """

    top: float
    relevance_slope: float
    relevance_middle: float
    fluency_slope: float
    fluency_middle: float
    distinct_enough: float

    def score(
        self,
        relevance: Float[np.ndarray, " text"],
        log_likelihood: Float[np.ndarray, " text"],
        distinct: Float[np.ndarray, " text"],
    ) -> Float[np.ndarray, " text"]:
        fluency = _logistic(self.fluency_slope * (log_likelihood - self.fluency_middle))
        raw = 100 * self.top * self.relevance(relevance) * fluency * np.minimum(1.0, distinct / self.distinct_enough)
        return np.clip(np.round(raw, 1), 0.0, 100.0)

    def relevance(self, value: Float[np.ndarray, " text"]) -> Float[np.ndarray, " text"]:
        """0 (about something else) to 1 (about the question)."""
        return _logistic(self.relevance_slope * (value - self.relevance_middle))


@lru_cache(maxsize=4)
def load_scale(name: str) -> Scale:
    """The fitted scale for one way to measure relevance: ``embedding`` or ``likelihood``."""
    return Scale(**json.loads(SCALES.read_text())[name])


@dataclass(frozen=True, eq=False, kw_only=True)
class OfflineJudge:
    """Judges with the gate, ``relevance`` and the fluency that ``reader``'s unsteered model tells.

    Blind: it sees the question and the response. Repeatable: the same cases get the same verdicts.
    """

    reader: HFEngine
    relevance: Relevance
    scale: Scale
    name: str = "offline"

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case. Blank responses are ``empty``."""
        responses = [case.response for case in cases]
        restarts = find_restarts(responses)
        spans = [attempt_spans(text, found) for text, found in zip(responses, restarts, strict=True)]
        owner = [i for i, of_case in enumerate(spans) for _ in of_case]
        texts = [responses[i][start:end] for i, of_case in enumerate(spans) for start, end in of_case]
        scores = iter(self.scores([cases[i].question for i in owner], texts).tolist())
        recovery = self._recovery(cases)
        verdicts = []
        for i, of_case in enumerate(spans):
            attempts = tuple(Attempt(start=start, end=end, score=next(scores)) for start, end in of_case)
            status = "judged" if attempts else "empty"
            verdicts.append(
                Verdict(status=status, attempts=attempts, recovery=recovery[i], note=_note(restarts[i], attempts))
            )
        return verdicts

    def scores(self, questions: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        """0 to 100 for each text as an answer to its question, restarts or not."""
        distinct = np.array([distinct_share(text) for text in texts])
        return self.scale.score(self.relevance(questions, texts), self.log_likelihoods(questions, texts), distinct)

    def log_likelihoods(self, questions: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        """Mean log-likelihood of each text's tokens as an answer to its question, in nats."""
        rows = [
            Row(messages=question, prefill=self.reader.pair.text_ids(text)[:READ_TOKENS], sampling=READING)
            for question, text in zip(questions, texts, strict=True)
        ]
        return np.array([read.mean() if len(read) else 0.0 for read in self.reader.log_likelihoods(rows)])

    def _recovery(self, cases: Sequence[Case]) -> list[float]:
        """0 to 10: the largest rise of mean relevance from before to after any place in the response."""
        windows = [_split(case.response, WINDOW_WORDS) if case.response.strip() else [] for case in cases]
        questions = [case.question for case, parts in zip(cases, windows, strict=True) for _ in parts]
        curve = self.scale.relevance(self.relevance(questions, [text for parts in windows for text in parts]))
        ends = np.cumsum([len(parts) for parts in windows])
        return [recovery_of(part) for part in np.split(curve, ends[:-1])]


def offline_judge(reader: HFEngine, *, way: str = "embedding", name: str = "offline") -> OfflineJudge:
    """The shipped judge, reading with ``reader``'s unsteered model.

    Args:
        way: how relevance is measured: by sentence ``embedding``, or by ``likelihood`` against other questions, which
            takes five readings a text.
    """
    return OfflineJudge(reader=reader, relevance=relevance_by(way, reader), scale=load_scale(way), name=name)


def relevance_by(way: str, reader: HFEngine) -> Relevance:
    """One of the ``WAYS`` to measure relevance.

    Raises:
        ValueError: no such way.
    """
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r} to measure relevance; there are {', '.join(WAYS)}")
    if way == "embedding":
        return embedding_relevance
    return Topicality(engine=reader, distractors=load_prompts("calibration")).information


def embedding_relevance(questions: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Cosine between each text and its question; long texts as the mean over parts of ``PART_WORDS`` words."""
    asked = list(dict.fromkeys(questions))
    parts = [_split(text, PART_WORDS) for text in texts]
    of_question = dict(zip(asked, embed(asked), strict=True))
    vectors = embed([part for of_text in parts for part in of_text])
    ends = np.cumsum([len(of_text) for of_text in parts])
    split = np.split(vectors, ends[:-1]) if len(texts) else []
    return np.array([(part @ of_question[q]).mean() for q, part in zip(questions, split, strict=True)])


def recovery_of(curve: Float[np.ndarray, " window"]) -> float:
    """0 to 10 from relevance (0 to 1) window by window."""
    rises = [curve[i:].mean() - curve[:i].mean() for i in range(1, len(curve))]
    return round(float(np.clip(max(rises, default=0.0) / RECOVERY_GAIN, 0.0, 10.0)), 1)


def distinct_share(text: str) -> float:
    """Share of distinct stretches among all stretches of four words; 1.0 where there are none."""
    words = re.findall(r"\w+", text.lower())
    stretches = [tuple(words[i : i + REPEAT_WORDS]) for i in range(len(words) - REPEAT_WORDS + 1)]
    return len(set(stretches)) / len(stretches) if stretches else 1.0


def _split(text: str, n_words: int) -> list[str]:
    """``text`` in parts of about ``n_words`` words, of equal length; at least one."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    n = max(1, round(len(words) / n_words))
    edges = [len(words) * i // n for i in range(n + 1)]
    return [text[words[a][0] : words[b - 1][1]] for a, b in zip(edges, edges[1:], strict=False) if b > a] or [text]


def _note(restarts: Sequence[object], attempts: Sequence[Attempt]) -> str:
    return "a restart that nothing follows, or that nothing precedes" if len(restarts) >= max(len(attempts), 1) else ""


def _logistic(x: Float[np.ndarray, " text"]) -> Float[np.ndarray, " text"]:
    return 1 / (1 + np.exp(-x))

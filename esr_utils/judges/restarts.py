"""The restart gate: where a response openly withdraws what it said, or says that it starts again.

Every sentence is read by a small classifier, fitted to sentences that do and sentences that only look like it
(``judge_fitting``): its meaning by a sentence embedding, its words by their counts. A boundary between attempts can
therefore stand only where such a sentence really stands. What is quoted is not the writer's own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import rbf_kernel

from esr_utils.config import DATA
from esr_utils.embedding import embed

GATE = DATA / "judge" / "gate.npz"
MIN_CHARACTERS = 12  # of an attempt, blanks left out: a restart at the very start withdraws nothing
WORDS = {"ngram_range": (1, 3), "sublinear_tf": True, "token_pattern": r"[a-z']+|[.!?…]"}

MIN_WORDS = 2  # of a restart
SHORT_CHARACTERS = 160  # of sentences that are also read two at a time
MAX_CAPITALS = 3  # of a sentence, behind which a restart is looked for
_CAPITAL = re.compile(r"(?<=[^\s.!?:\"'] )(?=(?!I')[A-Z][a-z']+[ ,])")
_SENTENCE = re.compile(r"[^.!?\n…]*(?:[.!?…]+[\"'”’)*]*(?=\s|$)|\n|$|[.!?…]+)")
_QUOTED = re.compile(  # a stray quotation mark, as in garbled text, opens nothing
    r"\"(?=\S)[^\"\n]{1,200}(?<=\S)\"(?!\w)|“(?=\S)[^”\n]{1,200}”|`[^`\n]+`"
    r"|(?<!\w)'(?=\S)[^'\n]{2,200}(?<=\S)'(?!\w)|(?<!\w)‘(?=\S)[^’\n]{2,200}’(?!\w)"
)


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Characters ``start`` to ``end`` (exclusive) of the sentences that withdraw or restart."""

    start: int
    end: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """The fitted classifier: a support vector machine on embeddings plus a linear model of words."""

    support: Float[np.ndarray, "vector 384"]
    dual: Float[np.ndarray, " vector"]
    bias: float
    gamma: float
    words: TfidfVectorizer
    weights: Float[np.ndarray, " term"]
    threshold: float
    floor: float

    def scores(self, sentences: Sequence[str]) -> Float[np.ndarray, " sentence"]:
        """Above zero: a restart. Sentences whose words speak clearly against it are spared the embedding."""
        if not len(sentences):
            return np.zeros(0)
        words = self.words.transform(sentences) @ self.weights
        scores = np.full(len(sentences), -np.inf)
        kept = np.flatnonzero(words >= self.floor)
        if len(kept):
            vectors = embed([sentences[i] for i in kept])
            meaning = rbf_kernel(vectors, self.support, gamma=self.gamma) @ self.dual + self.bias
            scores[kept] = meaning + words[kept] - self.threshold
        return scores


@lru_cache(maxsize=1)
def load_gate() -> Gate:
    """The gate that is shipped."""
    with np.load(GATE) as file:
        words = TfidfVectorizer(**WORDS, vocabulary={term: i for i, term in enumerate(file["terms"].tolist())})
        words.idf_ = file["idf"].astype(float)
        return Gate(
            support=file["support"].astype(np.float32),
            dual=file["dual"],
            bias=float(file["bias"]),
            gamma=float(file["gamma"]),
            words=words,
            weights=file["weights"].astype(float),
            threshold=float(file["threshold"]),
            floor=float(file["floor"]),
        )


def sentences_of(response: str) -> list[tuple[int, int, str]]:
    """Start, end and words of each sentence; a line ends a sentence, and quoted stretches are blanked."""
    plain = _QUOTED.sub(lambda quote: "_" * len(quote.group()), response).replace("’", "'")
    found = []
    for match in _SENTENCE.finditer(plain):
        text = match.group().strip()
        if re.search(r"[^\W_]", text):
            start = match.start() + match.group().index(text)
            found.append((start, start + len(text), text))
    return found


def candidates_of(response: str) -> list[tuple[int, int, str]]:
    """What may be a restart, the likelier form first: what follows a capital within a sentence (a text that breaks off
    often does so without a full stop), each sentence, and two short ones together."""
    sentences = sentences_of(response)
    found = []
    for start, end, text in sentences:
        for match in list(_CAPITAL.finditer(text))[:MAX_CAPITALS]:
            found.append((start + match.start(), end, text[match.start() :]))
    found += sentences
    for (start, end, text), (next_start, next_end, next_text) in zip(sentences, sentences[1:], strict=False):
        is_same_line = "\n" not in response[end:next_start]
        if is_same_line and max(len(text), len(next_text)) <= SHORT_CHARACTERS:
            found.append((start, next_end, f"{text} {next_text}"))
    return [candidate for candidate in found if len(re.findall(r"\w+", candidate[2])) >= MIN_WORDS]


def find_restarts(responses: Sequence[str]) -> list[list[Restart]]:
    """Every open restart of each response, in order; sentences that follow one another are one restart."""
    parts = [candidates_of(response) for response in responses]
    texts = list(dict.fromkeys(text for candidates in parts for _, _, text in candidates))  # loops: each once
    is_restart = dict(zip(texts, load_gate().scores(texts) > 0, strict=True))
    return [
        _joined(response, _smallest([(start, end) for start, end, text in candidates if is_restart[text]]))
        for response, candidates in zip(responses, parts, strict=True)
    ]


def _smallest(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order of their start; one that overlaps a span before it in the list is that one with ballast."""
    kept: list[tuple[int, int]] = []
    for start, end in spans:
        if not any(start < other_end and other_start < end for other_start, other_end in kept):
            kept.append((start, end))
    return sorted(kept)


def _joined(response: str, spans: list[tuple[int, int]]) -> list[Restart]:
    found: list[Restart] = []
    origin = 0  # a restart at the very start, and what follows it at once, withdraws nothing
    for start, end in spans:
        if found and not re.search(r"\w", response[found[-1].end : start]):
            found[-1] = Restart(start=found[-1].start, end=max(end, found[-1].end))
        elif found or _n_characters(response[origin:start]) >= MIN_CHARACTERS:
            found.append(Restart(start=start, end=end))
        else:
            origin = end
    return found


def attempt_spans(response: str, restarts: Sequence[Restart]) -> list[tuple[int, int]]:
    """Characters of each attempt: what stands before, between and after the restarts, which belong to none.

    A stretch of fewer than ``MIN_CHARACTERS`` is no attempt of its own. A response without any text has none.
    """
    edges = [0, *[edge for restart in restarts for edge in (restart.start, restart.end)], len(response)]
    spans = [_trimmed(response, *edges[i : i + 2]) for i in range(0, len(edges), 2)]
    kept = [span for span in spans if _n_characters(response[slice(*span)]) >= MIN_CHARACTERS]
    return kept or ([_trimmed(response, 0, len(response))] if response.strip() else [])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _n_characters(text: str) -> int:
    return sum(not character.isspace() for character in text)

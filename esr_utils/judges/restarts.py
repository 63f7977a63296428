"""The restart gate: where a response openly withdraws what it said, or says that it starts again.

Every sentence is read by a sentence encoder fine-tuned on sentences that do and sentences that only look like it
(``judge_fitting``). A boundary between attempts can therefore stand only where such a sentence really stands. What is
quoted is not the writer's own.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from esr_utils.config import DATA
from esr_utils.embedding import batches, load_encoder, pooled

GATE = DATA / "judge" / "gate"
MIN_CHARACTERS = 12  # of an attempt, blanks left out: a restart at the very start withdraws nothing

ScoreSentences = Callable[[Sequence[str]], Float[np.ndarray, " sentence"]]  # above zero: a restart
MIN_WORDS = 2  # of a restart
SHORT_CHARACTERS = 160  # of sentences that are also read two at a time
CUT_COST, PAIR_COST = 0.25, 1.0  # scores by which the end of a sentence, or two sentences, must exceed the sentence
MAX_CAPITALS = 8  # of a sentence, behind which a restart is looked for
_CAPITAL = re.compile(r"(?<=[^\s.!?\"'] )(?=[A-Z][a-z']*[ ,])")
_SENTENCE = re.compile(r"[^.!?\n…]*(?:[.!?…]+[\"'”’)*]*(?=\s|$)|\n|$|[.!?…]+)")
_QUOTED = re.compile(  # a stray quotation mark, as in garbled text, opens nothing
    r"\"(?=\S)[^\"\n]{1,200}(?<=\S)\"(?!\w)|“(?=\S)[^“”\n]{1,200}”|`[^`\n]+`"
    r"|(?<!\w)'(?=\S)(?:[^'\n]|'(?=\w)){2,200}(?<=\S)'(?!\w)|(?<!\w)‘(?=\S)(?:[^‘’\n]|’(?=\w)){2,200}’(?!\w)"
)


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Characters ``start`` to ``end`` (exclusive) of the sentences that withdraw or restart."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Characters that may be a restart, and their words: a sentence, the end of one, or two."""

    start: int
    end: int
    text: str
    is_cut: bool = False
    is_pair: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """The fine-tuned encoder with a linear head; its threshold is in the bias."""

    tokenizer: PreTrainedTokenizerBase
    encoder: torch.nn.Module
    weight: Float[Tensor, "384"]
    bias: float

    @torch.inference_mode()
    def scores(self, sentences: Sequence[str]) -> Float[np.ndarray, " sentence"]:
        """Above zero: a restart."""
        scores = np.zeros(len(sentences))
        for part in batches(sentences):
            vectors = pooled(self.tokenizer, self.encoder, [sentences[i] for i in part])
            scores[part] = (vectors @ self.weight + self.bias).numpy()
        return scores


@lru_cache(maxsize=1)
def load_gate(folder: Path = GATE) -> Gate:
    """The gate that is shipped: a LoRA adapter of the sentence encoder, merged, and its head."""
    from peft import PeftModel

    tokenizer, encoder = load_encoder(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks the encoder for a name that is to change
        merged = PeftModel.from_pretrained(encoder, folder).merge_and_unload().to(torch.bfloat16).eval()
    head = load_file(folder / "head.safetensors")
    return Gate(tokenizer=tokenizer, encoder=merged, weight=head["weight"], bias=float(head["bias"]))


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


def candidates_of(response: str) -> list[Candidate]:
    """What may be a restart: each sentence, what follows a capital within it (a text that breaks off often does so
    without a full stop), and two short sentences together."""
    sentences = sentences_of(response)
    found = []
    for start, end, text in sentences:
        found.append(Candidate(start=start, end=end, text=text))
        for match in list(_CAPITAL.finditer(text))[:MAX_CAPITALS]:
            found.append(Candidate(start=start + match.start(), end=end, text=text[match.start() :], is_cut=True))
    for (start, end, text), (next_start, next_end, next_text) in zip(sentences, sentences[1:], strict=False):
        is_same_line = "\n" not in response[end:next_start]
        if is_same_line and max(len(text), len(next_text)) <= SHORT_CHARACTERS:
            found.append(Candidate(start=start, end=next_end, text=f"{text} {next_text}", is_pair=True))
    return [candidate for candidate in found if len(re.findall(r"\w+", candidate.text)) >= MIN_WORDS]


def find_restarts(responses: Sequence[str], score: ScoreSentences | None = None) -> list[list[Restart]]:
    """Every open restart of each response, in order; sentences that follow one another are one restart.

    ``score``: of another gate than the one that is shipped.
    """
    score = score or load_gate().scores
    candidates = [candidates_of(response) for response in responses]
    texts = list(dict.fromkeys(candidate.text for of_one in candidates for candidate in of_one))  # loops: each once
    scores = dict(zip(texts, score(texts).tolist(), strict=True))
    return [
        _joined(response, _clearest([candidate for candidate in of_one if scores[candidate.text] > 0], scores))
        for response, of_one in zip(responses, candidates, strict=True)
    ]


def _clearest(candidates: Sequence[Candidate], scores: Mapping[str, float]) -> list[tuple[int, int]]:
    """Spans in order of their start. Of those that overlap the highest score wins, since a restart scores higher alone
    than with other text; against the sentence itself, its end and two together must win clearly."""
    kept: list[tuple[int, int]] = []
    for candidate in sorted(candidates, key=lambda c: CUT_COST * c.is_cut + PAIR_COST * c.is_pair - scores[c.text]):
        if not any(candidate.start < end and start < candidate.end for start, end in kept):
            kept.append((candidate.start, candidate.end))
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

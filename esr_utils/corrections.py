"""Training examples of self-correction, made from a model's own text: a drift, a restart, an answer to the question.

The drift is either real (the model was steered, and is steered again while it reads the example in training) or
pasted in (the beginning of an answer to another question). Questions, latents and restart sentences have no part in
any evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from esr_utils.config import DATA
from esr_utils.cuts import first_sentences
from esr_utils.engines.base import Engine
from esr_utils.judging import Score
from esr_utils.steering import Row, Sampling, Steer

RESTARTS = DATA / "fine_tuning" / "restarts.txt"
Kind = Literal["steered", "pasted", "normal"]
DERAILED = 35.0  # score at or below which a steered start counts as off topic


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """A question and the assistant's turn, of which only ``taught`` carries loss.

    Attributes:
        drift: what the turn begins with; carries no loss. Empty in normal answers.
        taught: restart sentence and answer, or a normal answer.
        ends: whether the end of the turn is taught after it; not where the answer was cut off by its length.
        latent, strength: steered while the example is read in training; 0 is unsteered.
    """

    kind: Kind
    question: str
    drift: str = ""
    taught: str
    ends: bool = True
    latent: int | None = None
    strength: float = 0.0


def load_restarts() -> list[str]:
    """Restart sentences that corrections begin with."""
    return RESTARTS.read_text().splitlines()


def unsteered_answers(
    engine: Engine, questions: Sequence[str], *, n_per_question: int, sampling: Sampling, seed: int = 0
) -> pd.DataFrame:
    """The model's own answers: question, response, ends (whether it ended its turn itself)."""
    rows = [
        Row(messages=question, seed=seed + 1000 * i + j, sampling=sampling)
        for i, question in enumerate(questions)
        for j in range(n_per_question)
    ]
    responses = engine.generate(rows)
    return pd.DataFrame(
        {
            "question": [row.messages for row in rows],
            "response": [response.text for response in responses],
            "ends": [response.stop_reason == "stop" for response in responses],
        }
    )


def shortened(answers: pd.DataFrame, n_words: int) -> pd.DataFrame:
    """Answers up to the end of the sentence after ``n_words`` words; one that is cut no longer ends its turn."""
    short = [first_sentences(text, n_words) for text in answers["response"]]
    is_whole = [len(a) == len(b.rstrip()) for a, b in zip(short, answers["response"], strict=True)]
    return answers.assign(response=short, ends=answers["ends"] & np.array(is_whole, dtype=bool))


def steered_starts(
    engine: Engine,
    score: Score,
    questions: Sequence[str],
    strengths: Mapping[int, float],
    *,
    n_per_latent: int,
    n_words: tuple[int, int],
    sampling: Sampling,
    seed: int = 0,
) -> pd.DataFrame:
    """Beginnings of steered responses: question, latent, strength, drift, score, is_derailed.

    ``strengths``: raw units, by latent. A beginning is cut at the end of a sentence after some number of words in
    ``n_words`` (from, below); it is derailed if it holds a word and its score is at most ``DERAILED``.
    """
    rng = np.random.default_rng(seed)
    rows = [
        Row(
            messages=str(rng.choice(questions)),
            steer=(Steer(latent=latent, strength=strength),),
            seed=int(rng.integers(2**31)),
            sampling=sampling,
        )
        for latent, strength in strengths.items()
        for _ in range(n_per_latent)
    ]
    drifts = [first_sentences(r.text, int(rng.integers(*n_words))) for r in engine.generate(rows)]
    asked = [row.messages for row in rows]
    frame = pd.DataFrame(
        {
            "question": asked,
            "latent": [row.steer[0].latent for row in rows],
            "strength": [row.steer[0].strength for row in rows],
            "drift": drifts,
            "score": score(asked, drifts),
        }
    )
    has_words = frame["drift"].str.strip() != ""
    return frame.assign(is_derailed=has_words & (frame["score"] <= DERAILED))


def pasted_drifts(answers: pd.DataFrame, *, n: int, n_words: tuple[int, int], seed: int = 0) -> pd.DataFrame:
    """Beginnings of answers to another question: question, drift. They stand for the paper's drifts, which a language
    model wrote together with their corrections."""
    rng = np.random.default_rng(seed)
    questions = answers["question"].unique()
    lines = []
    while len(lines) < n:
        question = str(rng.choice(questions))
        other = answers[answers["question"] != question].sample(1, random_state=int(rng.integers(2**31)))
        drift = first_sentences(str(other["response"].iloc[0]), int(rng.integers(*n_words)))
        lines.append({"question": question, "drift": drift})
    return pd.DataFrame(lines)


def make_corrections(
    drifts: pd.DataFrame,
    answers: pd.DataFrame,
    restarts: Sequence[str],
    *,
    silent_share: float = 0.1,
    is_shuffled: bool = False,
) -> list[TrainingExample]:
    """One correction a drift: a restart sentence (none in ``silent_share`` of them) and an answer to the question.

    ``is_shuffled``: the answer is to another question, so that the form of a correction is taught and not its use.
    """
    rng = np.random.default_rng(0)
    has_latent = "latent" in drifts
    found = []
    for drift in drifts.to_dict("records"):
        of_question = answers["question"] == drift["question"]
        pool = answers[~of_question if is_shuffled else of_question]
        answer = pool.iloc[int(rng.integers(len(pool)))]
        restart = "" if rng.random() < silent_share else str(rng.choice(restarts))
        gap = "\n\n" if rng.random() < 0.5 else " "
        found.append(
            TrainingExample(
                kind="steered" if has_latent else "pasted",
                question=drift["question"],
                drift=drift["drift"],
                taught=f"{gap}{restart} {answer['response']}" if restart else f"{gap}{answer['response']}",
                ends=bool(answer["ends"]),
                latent=int(drift["latent"]) if has_latent else None,
                strength=float(drift["strength"]) if has_latent else 0.0,
            )
        )
    return found


def normal_examples(answers: pd.DataFrame) -> list[TrainingExample]:
    """The model's own unsteered answers, whole."""
    return [
        TrainingExample(kind="normal", question=a.question, taught=a.response, ends=a.ends)
        for a in answers.itertuples()
    ]


def mix(
    corrections: Sequence[TrainingExample], normals: Sequence[TrainingExample], *, share: float, n: int, seed: int = 0
) -> list[TrainingExample]:
    """``n`` examples of which ``share`` are corrections, drawn and shuffled by seed.

    Raises:
        ValueError: a share outside 0 to 1, one so small that no correction is left, or more asked for than there are.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} of corrections is outside 0 (none) to 1 (all)")
    n_corrections = round(n * share)
    if share and not n_corrections:
        raise ValueError(f"a mix of {n} at share {share:g} holds no correction; raise the share or the number")
    rng = np.random.default_rng(seed)
    chosen: list[TrainingExample] = []
    for name, pool, wanted in (
        ("corrections", corrections, n_corrections),
        ("normal answers", normals, n - n_corrections),
    ):
        if wanted > len(pool):
            raise ValueError(f"a mix of {n} at share {share:g} needs {wanted} {name}, and there are {len(pool)}")
        chosen += [pool[i] for i in rng.choice(len(pool), wanted, replace=False)]
    return [chosen[i] for i in rng.permutation(len(chosen))]

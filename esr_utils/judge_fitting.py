"""``python -m esr_utils.judge_fitting``: fits the offline judge to what readers said of the ``tune`` half.

Writes ``gate.npz`` and ``scales.json`` in ``data/judge/``. The ``report`` half is never read here.
"""

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from esr_utils.embedding import embed
from esr_utils.judge_examples import FOLDER
from esr_utils.judges.offline import WAYS, OfflineJudge, Scale, distinct_share, relevance_by
from esr_utils.judges.restarts import GATE, MIN_WORDS, WORDS, sentences_of
from esr_utils.records import write_whole

BANKS = (*map(str, range(1, 9)), "tune")
FALSE_ALARMS = 4e-3  # share of ordinary sentences, hard ones among them, that may pass; in whole responses it is less
WORD_SHARE = 0.5  # of the model of words beside the model of meaning
GAMMA, COST = 1.0, 3.0
SPOILED = {"salad": 15.0, "loop": 25.0, "half salad": 45.0}  # scores by the rubric of good answers that were spoiled


def load_readings() -> pd.DataFrame:
    """One line a reading: id, reader, starts, dangling, scores, recovery, is_unsure; and the example's own fields."""
    examples = pd.read_json(FOLDER / "examples.jsonl", lines=True, dtype={"id": str})
    readings = pd.read_json(FOLDER / "readings.jsonl", lines=True, dtype={"id": str})
    return readings.merge(examples, on="id", validate="many_to_one")


def gold_attempts(readings: pd.DataFrame) -> pd.DataFrame:
    """One line an attempt that both readers marked alike: id, half, kind, question, text, score (their mean)."""
    lines = []
    for _, both in readings.groupby("id", sort=False):
        first, second = (reading for _, reading in both.iterrows())
        if len(first["starts"]) != len(second["starts"]):
            continue
        edges = [0, *sorted(first["starts"]), len(first["response"])]
        for i, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            score = (first["scores"][i] + second["scores"][i]) / 2
            fields = {name: first[name] for name in ("id", "half", "kind", "question")}
            lines.append(fields | {"index": i, "text": first["response"][start:end].strip(), "score": score})
    return pd.DataFrame(lines)


def fit_gate(readings: pd.DataFrame) -> None:
    restarts = [line for bank in BANKS for line in _phrases(f"restarts_{bank}")]
    others = [line for bank in BANKS for line in _phrases(f"near_misses_{bank}")]
    ordinary = gzip.decompress((FOLDER / "sentences.txt.gz").read_bytes()).decode().splitlines() + _unmarked(readings)
    ordinary = [text for text in ordinary if len(re.findall(r"\w+", text)) >= MIN_WORDS]
    pairs = [f"{a} {b}" for a, b in zip(ordinary[::4], ordinary[1::4], strict=False) if len(a) + len(b) < 200]
    sentences = [*restarts, *others, *pairs, *ordinary]
    is_restart = np.arange(len(sentences)) < len(restarts)
    is_ordinary = np.arange(len(sentences)) >= len(sentences) - len(ordinary)
    vectors = embed(sentences)
    fold = np.random.default_rng(0).integers(5, size=len(sentences))
    held_out, by_words = np.zeros(len(sentences)), np.zeros(len(sentences))
    for i in range(5):  # every sentence scored by a model that has not seen it
        part = fold != i
        machine, words, linear = _fit(vectors[part], _pick(sentences, part), is_restart[part])
        by_words[~part] = WORD_SHARE * (words.transform(_pick(sentences, ~part)) @ linear.coef_[0])
        held_out[~part] = machine.decision_function(vectors[~part]) + by_words[~part]
        held_out[~part] += WORD_SHARE * linear.intercept_[0]
    threshold = np.quantile(held_out[is_ordinary], 1 - FALSE_ALARMS)
    machine, words, linear = _fit(vectors, sentences, is_restart)
    np.savez_compressed(
        GATE,
        support=machine.support_vectors_.astype(np.float16),
        dual=machine.dual_coef_[0],
        bias=machine.intercept_[0] + WORD_SHARE * linear.intercept_[0],
        gamma=GAMMA,
        terms=words.get_feature_names_out().astype(str),
        idf=words.idf_.astype(np.float32),
        weights=(WORD_SHARE * linear.coef_[0]).astype(np.float32),
        threshold=threshold,
        floor=by_words[is_restart & (held_out > threshold)].min() - 0.5,
    )


def _fit(vectors: np.ndarray, sentences: Sequence[str], is_restart: np.ndarray) -> tuple:
    machine = SVC(C=COST, gamma=GAMMA, class_weight="balanced").fit(vectors, is_restart)
    words = TfidfVectorizer(**WORDS, min_df=2)
    linear = LogisticRegression(C=30, max_iter=300, class_weight="balanced")
    return machine, words, linear.fit(words.fit_transform(sentences), is_restart)


def _unmarked(readings: pd.DataFrame) -> list[str]:
    """Sentences of the ``tune`` half that stand where no reader marked a restart, nor beside such a place."""
    tune = readings[readings["half"] == "tune"]
    found = []
    for _, both in tune.groupby("id", sort=False):
        marks = [mark for column in ("starts", "dangling") for list_ in both[column] for mark in list_]
        for start, end, text in sentences_of(both["response"].iloc[0]):
            if not any(start - 40 <= mark <= end + 40 for mark in marks):
                found.append(text)
    return found


def _phrases(name: str) -> list[str]:
    """Sentences of a bank, as the gate sees them: quotes blanked."""
    lines = (FOLDER / "phrases" / f"{name}.txt").read_text().splitlines()
    return [" ".join(text for *_, text in sentences_of(line)) for line in lines]


def _pick(sentences: Sequence[str], part: np.ndarray) -> list[str]:
    return [sentences[i] for i in np.flatnonzero(part)]


def fit_scale(judge: OfflineJudge, gold: pd.DataFrame) -> Scale:
    """The scale that comes nearest (mean square) to the readers, spoiled good answers included."""
    frame = pd.concat([gold, spoiled(gold)], ignore_index=True)
    questions, texts = frame["question"].tolist(), frame["text"].tolist()
    relevance, likelihood = judge.relevance(questions, texts), judge.log_likelihoods(questions, texts)
    distinct = np.array([distinct_share(text) for text in texts])
    weight = np.where(frame["kind"].isin(SPOILED), 0.5, 1.0)

    def loss(parameters: np.ndarray) -> float:
        error = _scale(parameters).score(relevance, likelihood, distinct) - frame["score"]
        return float((weight * error**2).mean())

    middle = float(np.median(relevance[frame["score"] > 30]))
    spread = float(relevance.std())
    starts = [[1.0, 2 / spread, middle * share, 1.0, low, 0.5] for share in (0.5, 0.8) for low in (-4.0, -3.0)]
    bounds = [(0.5, 1.2), (0.1, 50), (None, None), (0.2, 5), (-7, -1), (0.1, 1.0)]
    fits = [
        minimize(loss, x0=start, bounds=bounds, method="Nelder-Mead", options={"maxiter": 4000}) for start in starts
    ]
    return _scale(min(fits, key=lambda fit: fit.fun).x.round(4))


def _scale(parameters: np.ndarray) -> Scale:
    return Scale(**dict(zip([field.name for field in fields(Scale)], parameters.tolist(), strict=True)))


def spoiled(gold: pd.DataFrame, *, n: int = 24, seed: int = 0) -> pd.DataFrame:
    """Good answers spoiled in three ways, with the score that the rubric gives: loops and word salad are rare in
    real responses that are otherwise on topic, and a judge must know them."""
    rng = random.Random(seed)
    lines = []
    good = gold[(gold["score"] >= 55) & (gold["text"].str.len() > 200)].head(n)
    for _, attempt in good.iterrows():
        words = attempt["text"].split()
        half = len(words) // 2
        start = words[: rng.choice([6, 9, 14])]
        made = {
            "salad": rng.sample(words, len(words)),
            "loop": start * 12,
            "half salad": words[:half] + rng.sample(words[half:], len(words) - half),
        }
        for kind, text in made.items():
            lines.append({**attempt, "kind": kind, "text": " ".join(text), "score": SPOILED[kind]})
    return pd.DataFrame(lines, columns=gold.columns)


def main() -> None:
    from esr_utils.engines.hf import HFEngine
    from esr_utils.models import load_pair

    readings = load_readings()
    fit_gate(readings)
    tune = gold_attempts(readings[readings["half"] == "tune"])
    reader = HFEngine(load_pair("smollm2-135m"))
    unscaled = _scale(np.ones(len(fields(Scale))))
    judges = {way: OfflineJudge(reader=reader, relevance=relevance_by(way, reader), scale=unscaled) for way in WAYS}
    scales = {way: asdict(fit_scale(judge, tune)) for way, judge in judges.items()}
    write_whole(FOLDER / "scales.json", json.dumps(scales, indent=1) + "\n")


if __name__ == "__main__":
    main()

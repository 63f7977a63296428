"""``python -m esr_utils.judge_fitting``: fits the offline judge to banks of phrases and to what readers said.

Writes ``gate/`` and ``scales.json`` in ``data/judge/``. The scale is fitted to the ``tune`` part, the threshold of the
gate is set on ``tune`` and ``check``; the ``report`` part is never read here.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from esr_utils.embedding import MODEL_NAME, batches, load_encoder, pooled
from esr_utils.files import write_whole
from esr_utils.judge_examples import BANKS, FITTED, FOLDER, phrases
from esr_utils.judge_readings import gold_attempts, load_readings, restart_marks
from esr_utils.judges.offline import WAYS, OfflineJudge, Scale, distinct_share, relevance_by
from esr_utils.judges.restarts import (
    GATE,
    MIN_WORDS,
    ScoreSentences,
    candidates_of,
    find_restarts,
    load_gate,
    sentences_of,
)

LEARNING_RATE, N_PASSES, BATCH, SEED = 1.5e-3, 3, 64, 0
THRESHOLDS = np.arange(-5.0, 12.0, 0.25)  # of a head whose bias is not set yet
LONG = 160  # characters of an ordinary sentence; longer ones teach little for their time
N_SPOILED = 24
SPOILED = {"salad": 15.0, "loop": 25.0, "half salad": 45.0}  # scores by the rubric of good answers that were spoiled


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Sentences and, of each, whether it restarts."""

    texts: list[str]
    is_restart: Bool[np.ndarray, " sentence"]


def learned() -> Sentences:
    """The banks, and ordinary sentences of the embedded model, alone and two together."""
    restarts, others = _as_read("restarts"), _as_read("near_misses")
    ordinary = gzip.decompress((FOLDER / "sentences.txt.gz").read_bytes()).decode().splitlines()
    ordinary = [text for text in ordinary if len(re.findall(r"\w+", text)) >= MIN_WORDS and len(text) < LONG]
    pairs = [f"{a} {b}" for a, b in zip(ordinary[::8], ordinary[1::8], strict=False)]
    texts = [*restarts, *others, *ordinary[::2], *pairs]
    return Sentences(texts=texts, is_restart=np.arange(len(texts)) < len(restarts))


def fit_gate(sentences: Sentences, readings: pd.DataFrame) -> None:
    """Fine-tune the sentence encoder (LoRA) and a head; the threshold is ``best_threshold`` of the readings."""
    torch.manual_seed(SEED)
    tokenizer, encoder = load_encoder(torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "key", "value", "dense"])
    model, head = get_peft_model(encoder, config), torch.nn.Linear(encoder.config.hidden_size, 1)
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    steps = list(_shuffled(sentences.texts))
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, len(steps) // 10, len(steps))
    model.train()
    for part in tqdm(steps, desc="fit the gate"):
        with torch.autocast("cpu", torch.bfloat16):
            vectors = pooled(tokenizer, model, [sentences.texts[i] for i in part])
        is_restart = torch.tensor(sentences.is_restart[part], dtype=torch.float32)
        binary_cross_entropy_with_logits(head(vectors.float())[:, 0], is_restart).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.peft_config["default"].base_model_name_or_path = MODEL_NAME
    model.save_pretrained(GATE, save_embedding_layers=False)
    (GATE / "README.md").unlink()  # an empty model card
    _save_head(head.weight[0], head.bias[0])
    load_gate.cache_clear()
    _save_head(head.weight[0], head.bias[0] - best_threshold(load_gate().scores, readings))
    load_gate.cache_clear()  # the one loaded has no threshold yet


def _shuffled(texts: Sequence[str]) -> Iterator[list[int]]:
    """Batches of every pass, each of texts of about equal length."""
    rng, size = np.random.default_rng(SEED), BATCH
    for _ in range(N_PASSES):
        order = rng.permutation(len(texts))
        groups = [order[start : start + 20 * size] for start in range(0, len(order), 20 * size)]
        parts = [group[part] for group in groups for part in batches([texts[i] for i in group], size)]
        yield from (parts[i].tolist() for i in rng.permutation(len(parts)))


def best_threshold(score: ScoreSentences, readings: pd.DataFrame) -> float:
    """The score above which restarts are found with fewest errors (missed and false) in the responses of ``readings``.

    Where several serve alike, the middle one.
    """
    responses = readings.drop_duplicates("id").set_index("id")["response"]
    texts = sorted({candidate.text for response in responses for candidate in candidates_of(response)})
    known = dict(zip(texts, score(texts).tolist(), strict=True))
    n_wrong = []
    for threshold in THRESHOLDS:
        found = find_restarts(responses.tolist(), lambda texts, at=threshold: np.array([known[t] - at for t in texts]))
        marks = restart_marks(readings, dict(zip(responses.index, found, strict=True)))
        n_wrong.append(int(marks["outcome"].isin(["missed", "false"]).sum()))
    return float(np.median(THRESHOLDS[np.array(n_wrong) == min(n_wrong)]))


def _save_head(weight: Tensor, bias: Tensor) -> None:
    head = {"weight": weight.detach().clone(), "bias": bias.detach().clone()}
    save_file(head, GATE / "head.safetensors")


def _as_read(kind: str) -> list[str]:
    """Sentences of all banks of a kind, as the gate sees them: quotes blanked."""
    return [" ".join(text for *_, text in sentences_of(line)) for bank in BANKS for line in phrases(kind, bank)]


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


def spoiled(gold: pd.DataFrame) -> pd.DataFrame:
    """Good answers spoiled in three ways, with the score that the rubric gives: loops and word salad are rare in
    real responses that are otherwise on topic, and a judge must know them."""
    rng = random.Random(0)
    lines = []
    good = gold[(gold["score"] >= 55) & (gold["text"].str.len() > 200)].head(N_SPOILED)
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
    fit_gate(learned(), readings[readings["part"].isin(FITTED)])
    tune = gold_attempts(readings[readings["part"] == "tune"])
    reader = HFEngine(load_pair("smollm2-135m"))
    unscaled = _scale(np.ones(len(fields(Scale))))
    judges = {way: OfflineJudge(reader=reader, relevance=relevance_by(way, reader), scale=unscaled) for way in WAYS}
    scales = {way: asdict(fit_scale(judge, tune)) for way, judge in judges.items()}
    write_whole(FOLDER / "scales.json", json.dumps(scales, indent=1) + "\n")


if __name__ == "__main__":
    main()

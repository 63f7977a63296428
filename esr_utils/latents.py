"""Choosing latents: labels, search, and the filters for relevance and concreteness in both published forms."""

import gzip
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from esr_utils.catalogue import find_entry
from esr_utils.engines.hf import HFEngine
from esr_utils.neuronpedia import neuronpedia_labels
from esr_utils.steering import READING, Row, Sampling

RULES = ("paper", "code")
N_DROPPED_PER_QUESTION = 100  # paper, section 2.2
CONCRETE_RATING = 65.0  # authors' code, on its scale of 0 to 100
NO_CONCRETENESS = "these labels carry no concreteness, so that none is left out as abstract: a departure from the paper"
SILENT = 1e-6  # at or below this an activation counts as zero, whatever the dtype


@lru_cache(maxsize=4)
def load_labels(pair: str) -> pd.DataFrame:
    """One line a labelled latent, indexed by latent: label, density, max_activation, concreteness, topics.

    ``density`` is the share of corpus tokens on which the latent fires. ``concreteness`` is 100 for a latent that
    fires on one topic only and 0 for one that fires on all alike. Labels from Neuronpedia carry neither (NaN).

    Raises:
        ValueError: the pair has no labels. LabelsError: they could not be had.
    """
    entry = find_entry(pair)
    if entry.labels is None:
        raise ValueError(f"{pair} has no labels; give its entry a table, or a source of Neuronpedia")
    if isinstance(entry.labels, Path):
        return pd.read_csv(entry.labels, index_col="latent")
    return neuronpedia_labels(entry.labels, d_sae=entry.shape and entry.shape.d_sae)


def load_contexts(pair: str, latent: int) -> list[dict]:
    """Strongest contexts of a latent: ``tokens``, ``acts`` (one a token) and ``peak`` (index of the strongest).

    Raises:
        KeyError: the latent has none, because it never fired in the corpus. ValueError: no latent of the pair has.
    """
    contexts = _all_contexts(pair)
    if latent not in contexts:
        raise KeyError(f"latent {latent} of {pair} has no contexts: it never fired in the corpus")
    return contexts[latent]


@lru_cache(maxsize=2)
def _all_contexts(pair: str) -> dict[int, list[dict]]:
    labels = find_entry(pair).labels
    if not isinstance(labels, Path):
        raise ValueError(f"{pair} has no contexts: they come with a label table of this kit")
    path = labels.parent / "contexts.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = map(json.loads, file)
        return {line["latent"]: line["contexts"] for line in lines}


def search_labels(labels: pd.DataFrame, text: str) -> pd.DataFrame:
    """Latents whose label or topics hold every word of ``text``, most concrete first."""
    haystack = (labels["label"] + " " + labels["topics"]).str.lower()
    for word in text.lower().split():
        haystack = haystack[haystack.str.contains(word, regex=False)]
    return labels.loc[haystack.index].sort_values("concreteness", ascending=False)


def max_activations(engine: HFEngine, rows: Sequence[Row]) -> Float[Tensor, "row latent"]:
    """Largest activation of every latent over the response tokens of each row (its prefill counts as response).

    Raises:
        ValueError: a row without response tokens.
    """
    maxima = _peaks(engine, rows)
    if len(maxima) < len(rows):
        raise ValueError("a row has no response tokens: give it a prefill or let it generate")
    return maxima


def _peaks(engine: HFEngine, rows: Sequence[Row]) -> Float[Tensor, "answered latent"]:
    """As ``max_activations``; a row whose response is empty has no line."""
    layer, sae = engine.pair.reading_layer, engine.pair.sae
    responses = engine.generate([replace(row, record_resid=(layer,)) for row in rows])
    read = [response.resid[layer] for response in responses if len(response.resid.get(layer, ()))]
    maxima = [sae.encode(resid).max(dim=0).values.cpu() for resid in read]
    return torch.stack(maxima) if maxima else torch.zeros(0, sae.d_sae)


def question_rows(engine: HFEngine, questions: Sequence[str]) -> list[Row]:
    """Rows that read each question in its chat template, without the header of an answer, and generate nothing."""
    rows = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        first, *rest = engine.pair.template_ids(turns, add_generation_prompt=False)
        rows.append(Row(token_ids=(first,), prefill=tuple(rest), sampling=READING))
    return rows


def is_unrelated(
    engine: HFEngine, questions: Sequence[str], *, rule: str = "paper", sampling: Sampling | None = None
) -> Bool[np.ndarray, " latent"]:
    """Which latents have nothing to do with any of the questions.

    ``paper``: not among the 100 most active in the unsteered response to any question. ``code``: silent on every
    token of every question (the first token, a template token with an outlier norm, is left out). A question that is
    answered with nothing at all drops no latent in the first form.

    Source: paper, section 2.2, and the authors' feature sampling. Differs from the code: zero has a tolerance.
    """
    if rule == "code":
        peak = max_activations(engine, question_rows(engine, questions)).max(dim=0).values
        return (peak <= SILENT).numpy()
    if rule != "paper":
        raise ValueError(f"rule {rule!r} is neither 'paper' nor 'code'")
    sampling = sampling or Sampling()
    rows = [Row(messages=question, seed=i, sampling=sampling) for i, question in enumerate(questions)]
    peaks = _peaks(engine, rows)
    if not len(peaks):
        raise ValueError(f"{engine.pair.name} answers none of the questions without steering; nothing can be told")
    keep = np.ones(peaks.shape[1], dtype=bool)
    for top in peaks.topk(min(N_DROPPED_PER_QUESTION, peaks.shape[1]), dim=1).indices:
        keep[top.numpy()] = False
    return keep


def is_concrete(labels: pd.DataFrame, *, rule: str = "paper") -> pd.Series:
    """Which labels are concrete. ``paper``: at or above the median; ``code``: rated at least 65 of 100.

    Differs from the paper: the embedded labels carry concreteness measured on topics, not a language model's rating.
    Labels that carry none at all count as concrete, with a warning.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is neither 'paper' nor 'code'")
    if labels["concreteness"].isna().all():
        warnings.warn(NO_CONCRETENESS, stacklevel=2)
        return pd.Series(True, index=labels.index)
    threshold = labels["concreteness"].median() if rule == "paper" else CONCRETE_RATING
    return labels["concreteness"] >= threshold


def sample_latents(labels: pd.DataFrame, n: int, *, seed: int) -> list[int]:
    """``n`` latents of ``labels``, drawn without replacement; the same seed gives the same latents.

    Raises:
        ValueError: there are fewer than ``n``.
    """
    if n > len(labels):
        raise ValueError(f"{n} latents asked for, and {len(labels)} are left after the filters; ask for fewer")
    rng = np.random.default_rng(seed)
    return sorted(int(latent) for latent in rng.choice(labels.index.to_numpy(), n, replace=False))


def filter_table(engine: HFEngine, labels: pd.DataFrame, questions: Sequence[str], sampling: Sampling) -> pd.DataFrame:
    """One line a labelled latent: whether it passes each filter in each form (``unrelated_paper``, ...)."""
    table = pd.DataFrame({"latent": labels.index})
    for rule in RULES:
        table[f"unrelated_{rule}"] = is_unrelated(engine, questions, rule=rule, sampling=sampling)[labels.index]
        table[f"concrete_{rule}"] = is_concrete(labels, rule=rule).to_numpy()
    return table


def survivors(filters: pd.DataFrame, rule: str) -> list[int]:
    """Latents that pass both filters in one form."""
    return filters.loc[filters[f"unrelated_{rule}"] & filters[f"concrete_{rule}"], "latent"].tolist()

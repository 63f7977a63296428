"""Responses to the same questions at several strengths: the raw material of every steering figure."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch

from esr_utils.engines.base import Engine, Response
from esr_utils.judging import Score
from esr_utils.steering import Row, Sampling, Steer
from esr_utils.topicality import Topicality


def steered_row(question: str, latent: int, strength: float, *, seed: int, sampling: Sampling) -> Row:
    """One question under one latent, with that latent's own activation recorded."""
    steer = (Steer(latent=latent, strength=strength),)
    return Row(messages=question, steer=steer, seed=seed, sampling=sampling, record=(latent,))


def strength_sweep(
    engine: Engine,
    score: Score,
    *,
    latents: Sequence[int],
    strengths: Sequence[float],
    questions: Sequence[str],
    sampling: Sampling,
) -> pd.DataFrame:
    """One line a response: latent, strength, question, response, its topicality and the latent's mean activation.

    Question i has seed i at every strength, so strengths are compared response by response.
    """
    cells = list(product(latents, strengths, enumerate(questions)))
    rows = [steered_row(q, latent, strength, seed=i, sampling=sampling) for latent, strength, (i, q) in cells]
    responses = engine.generate(rows)
    scores = score([question for _, _, (_, question) in cells], [response.text for response in responses])
    return pd.DataFrame(
        {
            "latent": latent,
            "strength": strength,
            "question": question,
            "seed": seed,
            "response": response.text,
            "stop_reason": response.stop_reason,
            "topicality": value,
            "activation": mean_activation(response, latent),
        }
        for (latent, strength, (seed, question)), response, value in zip(cells, responses, scores, strict=True)
    )


def mean_activation(response: Response, latent: int) -> float:
    """Mean over the response tokens that the model read; NaN for a response without any."""
    values = response.activations[latent]
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def topicality_curves(topicality: Topicality, sweep: pd.DataFrame, *, topic: str) -> pd.DataFrame:
    """One line a token of each response of ``sweep``: information about its question, and about ``topic``, in nats."""
    responses = sweep["response"].fillna("").tolist()
    about_question = topicality.curves(sweep["question"].tolist(), responses)
    about_topic = topicality.curves([f"Tell me about {topic}."] * len(sweep), responses)
    parts = [
        pd.DataFrame(
            {"strength": strength, "seed": seed, "pos": np.arange(len(q)), "about_question": q, "about_topic": t}
        )
        for strength, seed, q, t in zip(sweep["strength"], sweep["seed"], about_question, about_topic, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def norms_by_layer(engine: Engine, questions: Sequence[str], sampling: Sampling) -> pd.DataFrame:
    """Medians over response tokens at each layer: norm, and distance from the mean token of these responses."""
    pair = engine.pair
    layers = tuple(range(pair.n_layers))
    rows = [Row(messages=q, seed=i, sampling=sampling, record_resid=layers) for i, q in enumerate(questions)]
    responses = engine.generate(rows)
    lines = []
    for layer in layers:
        resid = torch.cat([response.resid[layer] for response in responses]).float()
        distance = (resid - resid.mean(dim=0)).norm(dim=1)
        lines.append((layer, float(resid.norm(dim=1).median()), float(distance.median()), layer == pair.steering_layer))
    return pd.DataFrame(lines, columns=["layer", "norm", "distance_from_mean", "is_steered"])

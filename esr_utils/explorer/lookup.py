"""Finding latents and telling what one of them is: search by label or by text, filters, and the card of a latent."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from esr_utils.explorer.subject import NEUTRAL_QUESTION, Subject
from esr_utils.latents import max_activations, search_labels
from esr_utils.steering import READING, Row

N_LOGITS = 10
N_NEAREST = 8
N_BINS = 20
N_CONTEXTS = 8
COLUMNS = ["label", "density", "concreteness"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one latent.

    Attributes:
        density: share of corpus tokens on which it fires; None for a latent that never did.
        contexts: as ``latents.load_contexts`` gives them, strongest first.
        histogram: bin edges and counts of its activations above zero, over ``n_read`` unsteered answer tokens.
        top_logits, bottom_logits: tokens that the head ranks first and last, with their logits, if the residual
            stream held the decoder direction alone.
        nearest: other latents by the cosine of decoder directions: latent, cosine, label.
        calibrated: strength in raw units at which notebook 02 found the target score; None if it was not calibrated.
        relative: that strength as a share of the median norm.
    """

    latent: int
    label: str
    density: float | None
    concreteness: float | None
    max_activation: float | None
    topics: str
    contexts: tuple[dict, ...]
    histogram: tuple[tuple[float, ...], tuple[int, ...]]
    n_read: int
    top_logits: tuple[tuple[str, float], ...]
    bottom_logits: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[int, float, str], ...]
    calibrated: float | None
    relative: float | None

    def tables(self) -> dict[str, pd.DataFrame]:
        """Contexts, logits and neighbours as frames, by name."""
        contexts = [(max(c["acts"]), "".join(c["tokens"])) for c in self.contexts]
        logits = [(*top, *bottom) for top, bottom in zip(self.top_logits, self.bottom_logits, strict=True)]
        return {
            "contexts": pd.DataFrame(contexts, columns=["activation", "context"]),
            "logits": pd.DataFrame(logits, columns=["top", "logit", "bottom", "bottom_logit"]),
            "nearest": pd.DataFrame(self.nearest, columns=["latent", "cosine", "label"]),
        }


def by_label(
    labels: pd.DataFrame,
    text: str,
    *,
    density: tuple[float, float] = (0.0, 1.0),
    concreteness: tuple[float, float] = (0.0, 100.0),
) -> pd.DataFrame:
    """Latents whose label or topics hold every word of ``text``, or the one whose number it is; then both filters.

    A ``density`` is a share of tokens, ``concreteness`` runs from 0 to 100; both ends count.
    """
    found = labels.loc[labels.index == int(text)] if text.strip().isdecimal() else search_labels(labels, text)
    return found[found["density"].between(*density) & found["concreteness"].between(*concreteness)]


def by_sentence(subject: Subject, sentence: str) -> pd.DataFrame:
    """Latents that fire on ``sentence``, read as an unsteered answer: latent (index), activation, and label's columns.

    Raises:
        ValueError: an empty sentence.
    """
    if not sentence.strip():
        raise ValueError("there is no sentence to read; write one, or search by label")
    row = Row(messages=NEUTRAL_QUESTION, prefill=sentence, sampling=READING)
    peaks = max_activations(subject.engine, [row])[0].numpy()
    order = np.argsort(-peaks, kind="stable")
    fired = [int(latent) for latent in order if peaks[latent] > 0]
    table = subject.labels.reindex(fired).assign(activation=peaks[fired].round(2))
    table["label"] = [subject.label(latent) for latent in fired]
    return table.rename_axis("latent")[["activation", *COLUMNS]]


def make_card(subject: Subject, latent: int) -> Card:
    """The card of a latent.

    Raises:
        ValueError: there is no such latent.
    """
    label = subject.label(latent)
    known = subject.labels.loc[latent].to_dict() if latent in subject.labels.index else {}
    top, bottom = _logits(subject, latent)
    histogram, n_read = _histogram(subject, latent)
    calibrated = subject.calibrated.get(latent)
    return Card(
        latent=latent,
        label=label,
        density=known.get("density"),
        concreteness=known.get("concreteness"),
        max_activation=known.get("max_activation"),
        topics=str(known.get("topics", "")),
        contexts=tuple(subject.contexts(latent)[:N_CONTEXTS]),
        histogram=histogram,
        n_read=n_read,
        top_logits=top,
        bottom_logits=bottom,
        nearest=_nearest(subject, latent),
        calibrated=calibrated,
        relative=None if calibrated is None else subject.relative(latent, calibrated),
    )


def _histogram(subject: Subject, latent: int) -> tuple[tuple[tuple[float, ...], tuple[int, ...]], int]:
    pair = subject.engine.pair
    resid = subject.read[pair.reading_layer].to(pair.sae.W_enc.device)
    values = pair.sae.encode(resid, torch.tensor([latent], device=resid.device))[:, 0].cpu().numpy()
    fired = values[values > 0]
    counts, edges = np.histogram(fired, bins=N_BINS) if len(fired) else (np.zeros(0, int), np.zeros(0))
    return (tuple(edges.round(2).tolist()), tuple(counts.tolist())), len(values)


@torch.inference_mode()
def _logits(subject: Subject, latent: int) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]:
    """Through the final norm, which changes the scale of a lone direction and weighs its dimensions."""
    pair = subject.engine.pair
    direction = pair.sae.direction(latent).to(pair.model.device, pair.model.dtype)
    logits = pair.soft_capped(pair.model.lm_head(pair.base_model().norm(direction[None])))[0].float()
    ranked = logits.argsort(descending=True)
    return _told(subject, logits, ranked[:N_LOGITS]), _told(subject, logits, ranked.flip(0)[:N_LOGITS])


def _told(subject: Subject, logits: torch.Tensor, tokens: torch.Tensor) -> tuple[tuple[str, float], ...]:
    decode = subject.engine.pair.tokenizer.decode
    return tuple((decode([token]), round(float(logits[token]), 2)) for token in tokens.tolist())


def _nearest(subject: Subject, latent: int) -> tuple[tuple[int, float, str], ...]:
    directions = torch.nn.functional.normalize(subject.engine.pair.sae.W_dec, dim=1)
    cosines = directions @ directions[latent]
    cosines[latent] = -2.0
    values, found = cosines.topk(min(N_NEAREST, len(cosines) - 1))
    return tuple(
        (int(other), round(float(value), 3), subject.label(int(other)))
        for value, other in zip(values, found, strict=True)
    )


def options(found: pd.DataFrame, *, n: int) -> list[tuple[str, int]]:
    """The first ``n`` latents as lines of a list: what is shown, and the latent."""
    told = found.get("activation")
    return [
        (f"{latent}: {label}" if told is None else f"{latent} ({told[latent]:g}): {label}", int(latent))
        for latent, label in found["label"].head(n).items()
    ]

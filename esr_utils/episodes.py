"""Episodes of self-correction: which tokens are off topic, correction and on topic, and what latents do there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t
from statsmodels.stats.multitest import multipletests

from esr_utils.engines.base import Engine, Response
from esr_utils.steering import READING, Row, Steer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STRETCHES = ("off_topic", "correction", "on_topic")
N_FLIPS = 10_000
MIN_EPISODES = 5  # behind a position of an aligned trace


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A response with several attempts, in tokens.

    Attributes:
        token_ids: of the response.
        stretch: name of the stretch that each token belongs to; empty between the first correction and the last
            attempt, where further attempts may stand. A judge whose attempts adjoin leaves no correction.
        corrected_at: number of the first token after the first attempt.
        latent, strength: what the response was steered with, in raw units.
    """

    trial_id: str
    question: str
    response: str
    token_ids: tuple[int, ...]
    stretch: tuple[str, ...]
    corrected_at: int
    latent: int
    strength: float


def exact_span(response: str, attempt: str, *, after: int = 0) -> tuple[int, int]:
    """Start and end of an attempt's text within a response, searched from the character ``after``.

    Raises:
        ValueError: it does not stand there.
    """
    start = response.find(attempt, after)
    if start < 0 or not attempt:
        told = attempt if len(attempt) <= 60 else f"{attempt[:57]}..."
        raise ValueError(f"the attempt {told!r} is not in the response after character {after}; judge the trial again")
    return start, start + len(attempt)


def find_episodes(tokenizer, trials: pd.DataFrame, attempts: pd.DataFrame) -> list[Episode]:
    """An episode for each trial with several attempts, in the order of ``trials``.

    Args:
        trials: as ``frames.judged_frame`` makes it; only lines with ``is_multi`` are taken.
        attempts: as ``frames.attempt_frame`` makes it, of those trials.

    Raises:
        ValueError: an attempt whose text is not in its response, or a response that its own tokens do not spell.
    """
    texts = {trial_id: mine.sort_values("index")["text"].tolist() for trial_id, mine in attempts.groupby("trial_id")}
    found = []
    for trial in trials[trials["is_multi"]].itertuples():
        ids, stretch, corrected_at = _stretches(tokenizer, trial.response, texts[trial.trial_id])
        found.append(
            Episode(
                trial_id=trial.trial_id,
                question=trial.question,
                response=trial.response,
                token_ids=ids,
                stretch=stretch,
                corrected_at=corrected_at,
                latent=trial.latent,
                strength=trial.strength,
            )
        )
    return found


def _stretches(tokenizer, response: str, attempts: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    spans, after = [], 0
    for attempt in attempts:
        spans.append(exact_span(response, attempt, after=after))
        after = spans[-1][1]
    coded = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
    if tokenizer.decode(coded["input_ids"]) != response:
        raise ValueError(
            f"the tokens of the response {response[:40]!r}... do not spell it; read it as it was generated"
        )
    edges = {"off_topic": spans[0], "correction": (spans[0][1], spans[1][0]), "on_topic": spans[-1]}
    # a token may begin with the space before its word, so its last character decides
    last = [max(start, end - 1) for start, end in coded["offset_mapping"]]
    names = [next((name for name, (a, b) in edges.items() if a <= at < b), "") for at in last]
    return tuple(coded["input_ids"]), tuple(names), sum(at < spans[0][1] for at in last)


def read_episodes(engine: Engine, episodes: Sequence[Episode], latents: Sequence[int]) -> dict[str, dict]:
    """Activations of ``latents`` at each token of each episode: trial id -> latent -> values.

    Teacher-forced with the steering of the trial, so what the model computed when it wrote the response is read again.

    Raises:
        ValueError: no latent, or one twice.
    """
    if not latents:
        raise ValueError("no latents to read; give at least one")
    if len(set(latents)) != len(latents):
        raise ValueError("a latent is to be read twice; name each once")
    rows = [_row(e.question, e.token_ids, e.latent, e.strength, latents) for e in episodes]
    read = engine.generate(rows)
    return {episode.trial_id: response.activations for episode, response in zip(episodes, read, strict=True)}


def read_whole(engine: Engine, trials: pd.DataFrame, latents: Sequence[int]) -> dict[str, dict]:
    """Activations of ``latents`` at each token of each trial's response, as ``read_episodes`` for whole trials."""
    rows = [
        _row(trial.question, trial.response, trial.latent, trial.strength, latents) for trial in trials.itertuples()
    ]
    read = engine.generate(rows)
    return {trial_id: response.activations for trial_id, response in zip(trials["trial_id"], read, strict=True)}


def _row(question: str, response: str | tuple[int, ...], latent: int, strength: float, record: Sequence[int]) -> Row:
    steer = (Steer(latent=latent, strength=strength),) if strength else ()
    return Row(messages=question, prefill=response, steer=steer, record=tuple(record), sampling=READING)


def compare_reading(recorded: Response, read: Response) -> dict[str, float]:
    """Activations recorded while a response was made, against those read from its tokens: correlation and
    max_difference over all latents and tokens that have both."""
    made, forced = (
        np.concatenate([of.activations[latent] for latent in recorded.activations]) for of in (recorded, read)
    )
    known = np.isfinite(made) & np.isfinite(forced)
    return {
        "correlation": float(np.corrcoef(made[known], forced[known])[0, 1]),
        "max_difference": float(np.abs(made - forced)[known].max()),
    }


def trace(
    episode: Episode,
    read: Mapping[int, Float[np.ndarray, " pos"]],
    groups: Mapping[str, Sequence[int]],
    tokenizer: "PreTrainedTokenizerBase",
) -> pd.DataFrame:
    """One line a token: trial_id, pos (0 is the first token of the restart), token, stretch, the activation of the
    ``steered`` latent, and that of each group, summed over its latents."""
    sums = {name: np.sum([read[latent] for latent in latents], axis=0) for name, latents in groups.items()}
    return pd.DataFrame(
        {
            "trial_id": episode.trial_id,
            "pos": np.arange(len(episode.token_ids)) - episode.corrected_at,
            "token": [tokenizer.decode([token]) for token in episode.token_ids],
            "stretch": episode.stretch,
            "steered": read[episode.latent],
            **sums,
        }
    )


def stretch_means(episodes: Sequence[Episode], read: Mapping[str, Mapping[int, np.ndarray]]) -> pd.DataFrame:
    """Mean activation of each latent in each stretch: trial_id, latent, off_topic, correction, on_topic (NaN: none)."""
    lines = []
    for episode in episodes:
        where = {name: np.array(episode.stretch) == name for name in STRETCHES}
        for latent, values in read[episode.trial_id].items():
            means = {name: np.nanmean(values[at]) if at.any() else np.nan for name, at in where.items()}
            lines.append({"trial_id": episode.trial_id, "latent": latent, **means})
    return pd.DataFrame(lines)


def paired_tests(means: pd.DataFrame) -> pd.DataFrame:
    """Off topic less on topic, latent by latent: one two-sided sign-flip test over episodes, with Holm's correction.

    Columns: latent, n_episodes, the three means, difference, ci_low, ci_high (95%, t), p, p_holm. An episode without
    one of the two stretches is left out of that latent's test.

    Differs from the paper: Welch's or a one-sided paired test there, and no correction for 26 tests.
    """
    rng, lines = np.random.default_rng(0), []
    for latent, mine in means.groupby("latent"):
        difference = (mine["off_topic"] - mine["on_topic"]).dropna().to_numpy()
        averages = mine[list(STRETCHES)].mean().to_dict()
        lines.append({"latent": latent, "n_episodes": len(difference), **averages, **_sign_flip(difference, rng)})
    table = pd.DataFrame(lines)
    return table.assign(p_holm=multipletests(table["p"], method="holm")[1])


def _sign_flip(difference: Float[np.ndarray, " episode"], rng: np.random.Generator) -> dict[str, float]:
    if len(difference) < 2:
        raise ValueError(f"{len(difference)} episodes have both stretches, and a paired test needs at least two")
    spread = mean_with_interval(difference)
    mean = spread["mean"]
    flips = rng.choice([-1.0, 1.0], size=(N_FLIPS, len(difference))) @ difference / len(difference)
    p = (1 + np.sum(np.abs(flips) >= abs(mean) - 1e-12)) / (1 + N_FLIPS)
    return {"difference": mean, "ci_low": spread["ci_low"], "ci_high": spread["ci_high"], "p": float(p)}


def aligned(traces: pd.DataFrame, column: str, *, window: int) -> pd.DataFrame:
    """Mean of a column of traces over episodes at each token around the restart: pos, mean, ci_low, ci_high, n.

    Episodes that do not reach so far are left out of a position, not counted as zero as in the paper's figure.
    Positions with fewer than 5 episodes are left out.
    """
    near = traces[traces["pos"].abs() <= window].dropna(subset=[column])
    lines = [{"pos": pos, **mean_with_interval(mine.to_numpy())} for pos, mine in near.groupby("pos")[column]]
    table = pd.DataFrame(lines, columns=["pos", "mean", "ci_low", "ci_high", "n"])
    return table[table["n"] >= MIN_EPISODES].reset_index(drop=True)


def mean_with_interval(values: Float[np.ndarray, " episode"]) -> dict[str, float]:
    """mean, ci_low, ci_high (95%, t; takes episodes as independent, NaN for fewer than two), n."""
    n, mean = len(values), values.mean() if len(values) else np.nan
    half = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + half, "n": n}


def matched_uncorrected(trials: pd.DataFrame) -> pd.DataFrame:
    """Steered trials with one attempt, each the nearest in first-attempt score to one with several, none used twice.

    As many as there are of the scarcer kind. What an off-topic response looks like in which nothing is withdrawn.
    Differs from the paper, whose baseline is responses that scored well.
    """
    single = trials[(trials["n_attempts"] == 1) & (trials["level"] > 0)].copy()
    chosen = []
    for score in trials.loc[trials["is_multi"], "first_score"].sort_values().head(len(single)):
        nearest = (single["first_score"] - score).abs().idxmin()
        chosen.append(nearest)
        single = single.drop(index=nearest)
    return trials.loc[chosen]

"""Beginnings of responses: cut before the first restart, each with an unsteered one of the same length, and the
stretches of text that a steered response is begun with."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from esr_utils.episodes import Episode, find_episodes, matched_uncorrected
from esr_utils.judges.restarts import find_restarts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESTARTED, UNCORRECTED = "restarted", "uncorrected"
SOURCES = (RESTARTED, UNCORRECTED)
STEERED, UNSTEERED = "steered", "unsteered"
OWN, GENERIC, OFF_TOPIC, NONE = "own", "generic", "off_topic", "none"
ARMS = (OWN, GENERIC, OFF_TOPIC, NONE)
FIT, SPARE = "fit", "spare"
LOST = ("no_room", "short", "split", "restart")  # why a beginning cannot be used, in the order of the tests
PREFIX_COLUMNS = ["source", "trial_id", "unsteered_id", "n_tokens", STEERED, UNSTEERED, "ends_sentence", "status"]
SEGMENT_COLUMNS = ["trial_id", "unsteered_id", "arm", "token_ids", "text", "status"]


def find_prefixes(
    tokenizer: "PreTrainedTokenizerBase",
    trials: pd.DataFrame,
    attempts: pd.DataFrame,
    *,
    n: int,
    max_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """Steered beginnings of both sources, each with the unsteered one of its latent, question and seed.

    Restarted responses are cut where their first attempt ends. They are chosen by their outcome, so each that is drawn
    is matched on first score to a response that withdrew nothing, which is cut at the same number of tokens.

    Args:
        trials: judged, steered at one strength or unsteered, as ``frames.judged_frame`` makes it.
        attempts: as ``frames.attempt_frame`` makes it, of those trials.
        n: most of each source, drawn by ``seed`` from those that fit.
        max_tokens: longest beginning.

    Returns:
        One line a candidate: source, trial_id, unsteered_id (empty: none was judged), n_tokens, ``steered`` and
        ``unsteered`` (token ids as JSON), ends_sentence (of the steered one), and status: ``fit``, ``spare`` (not
        drawn), or why not: too long (``no_room``), a response too ``short``, a cut that would ``split`` a character,
        or a ``restart`` in a beginning.

    Raises:
        ValueError: an attempt that is not in its response, or a response that its own tokens do not spell.
    """
    steered = trials[trials["level"] > 0]
    partners = unsteered_partners(trials)
    episodes = find_episodes(tokenizer, steered, attempts)
    cuts = {episode.trial_id: episode.corrected_at for episode in episodes}
    restarted = _candidates(tokenizer, steered, partners, cuts=cuts, max_tokens=max_tokens)
    restarted = _drawn(restarted.assign(source=RESTARTED), n, seed=seed)
    drawn = restarted.loc[restarted["status"] == FIT, "trial_id"]
    matched = _matched_cuts(steered, drawn, cuts)
    uncorrected = _candidates(tokenizer, steered, partners, cuts=matched, max_tokens=max_tokens)
    return pd.concat([restarted, uncorrected.assign(source=UNCORRECTED)], ignore_index=True)[PREFIX_COLUMNS]


def unsteered_partners(trials: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Id and text of the judged unsteered response to each steered trial's question, with its latent and seed."""
    key = ["latent", "question", "repeat"]
    unsteered = trials[(trials["level"] == 0) & (trials["status"] == "judged")]
    both = trials[trials["level"] > 0].merge(unsteered, on=key, suffixes=("", "_unsteered"))
    texts = zip(both["trial_id_unsteered"], both["response_unsteered"], strict=True)
    return dict(zip(both["trial_id"], texts, strict=True))


def _matched_cuts(steered: pd.DataFrame, drawn: pd.Series, cuts: Mapping[str, int]) -> dict[str, int]:
    """For each uncorrected response matched to a drawn one, by its trial id, the number of tokens to cut it at."""
    pool = steered[steered["trial_id"].isin(drawn) | ~steered["is_multi"]]
    ranked = pool.loc[pool["is_multi"], "first_score"].sort_values().index  # the order in which they are matched
    matched = matched_uncorrected(pool)["trial_id"]
    return {mine: cuts[its] for mine, its in zip(matched, pool.loc[ranked, "trial_id"], strict=False)}


def _candidates(
    tokenizer: "PreTrainedTokenizerBase",
    steered: pd.DataFrame,
    partners: Mapping[str, tuple[str, str]],
    *,
    cuts: Mapping[str, int],
    max_tokens: int,
) -> pd.DataFrame:
    """One line a trial of ``cuts`` (trial id -> number of tokens), with its status."""
    responses = steered.set_index("trial_id")["response"]
    lines, texts = [], []
    for trial_id, n in cuts.items():
        unsteered_id, answer = partners.get(trial_id, ("", ""))
        begun = [_beginning(tokenizer, text, n) for text in (responses[trial_id], answer)]
        status = "no_room" if n > max_tokens else next((status for _, _, status in begun if status != FIT), FIT)
        ids = {name: json.dumps(part[0]) for name, part in zip((STEERED, UNSTEERED), begun, strict=True)}
        ends = begun[0][1].rstrip().endswith((".", "!", "?"))
        known = {"trial_id": trial_id, "unsteered_id": unsteered_id, "n_tokens": n, "ends_sentence": ends}
        lines.append(known | ids | {"status": status})
        texts.append([text for _, text, _ in begun])
    frame = pd.DataFrame(lines, columns=[name for name in PREFIX_COLUMNS if name != "source"])
    return frame.assign(status=_with_restarts(frame["status"].tolist(), texts))


def _beginning(tokenizer: "PreTrainedTokenizerBase", response: str, n: int) -> tuple[list[int], str, str]:
    """The first ``n`` tokens of a response, their text, and whether they can be used (``FIT``, or why not)."""
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(ids[:n], skip_special_tokens=True)
    if len(ids) < n or n == 0:
        return ids[:n], text, "short"
    return ids[:n], text, FIT if response.startswith(text) else "split"


def _with_restarts(statuses: Sequence[str], texts: Sequence[Sequence[str]]) -> list[str]:
    """The statuses, with ``restart`` for what is fit so far and has a restart, by the gate, in one of its texts."""
    fit = [i for i, status in enumerate(statuses) if status == FIT]
    found = iter(find_restarts([text for i in fit for text in texts[i]]))
    held = {i: [next(found) for _ in texts[i]] for i in fit}
    return ["restart" if any(held.get(i, [])) else status for i, status in enumerate(statuses)]


def _drawn(candidates: pd.DataFrame, n: int, *, seed: int) -> pd.DataFrame:
    """The candidates with those that fit and are not among the ``n`` drawn marked ``spare``."""
    fit = np.flatnonzero(candidates["status"] == FIT)
    order = np.random.default_rng(seed).permutation(fit)
    return candidates.assign(status=candidates["status"].mask(candidates.index.isin(order[n:]), SPARE))


def find_segments(
    tokenizer: "PreTrainedTokenizerBase",
    trials: pd.DataFrame,
    attempts: pd.DataFrame,
    *,
    n: int,
    n_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """What a response is begun with in each arm: ``n_tokens`` tokens of each episode, and nothing in ``none``.

    ``own``: from the first restart on, blank tokens before it left out; ``off_topic``: of the first attempt, from its
    beginning; ``generic``: of the unsteered answer with the same latent, question and seed, from its beginning.

    Arguments and errors as ``find_prefixes``; ``n``: most episodes.

    Returns:
        One line an episode and arm: trial_id, unsteered_id, arm, token_ids (as JSON), text, and status, which the arms
        of an episode share: ``fit``, ``spare`` (not drawn), or why not: a first attempt, a rest or an answer too
        ``short`` for a segment, a segment that would ``split`` a character, or a ``restart`` where there must be none.
    """
    partners, lines = unsteered_partners(trials), []
    for episode in find_episodes(tokenizer, trials[trials["level"] > 0], attempts):
        unsteered_id, answer = partners.get(episode.trial_id, ("", ""))
        parts = segments_of(tokenizer, episode, answer, n_tokens=n_tokens)
        texts = {arm: tokenizer.decode(ids, skip_special_tokens=True) for arm, ids in parts.items()}
        lines.append((episode.trial_id, unsteered_id, parts, texts, _segment_status(parts, texts, n_tokens)))
    found = pd.DataFrame(lines, columns=["trial_id", "unsteered_id", "parts", "texts", "status"])
    held = [[texts[OFF_TOPIC], texts[GENERIC]] for texts in found["texts"]]
    drawn = _drawn(found.assign(status=_with_restarts(found["status"].tolist(), held)), n, seed=seed)
    long = [
        (line.trial_id, line.unsteered_id, arm, json.dumps(line.parts[arm]), line.texts[arm], line.status)
        for line in drawn.itertuples()
        for arm in ARMS
    ]
    return pd.DataFrame(long, columns=SEGMENT_COLUMNS)


def segments_of(
    tokenizer: "PreTrainedTokenizerBase", episode: Episode, answer: str, *, n_tokens: int
) -> dict[str, list[int]]:
    """Token ids of each arm's segment; fewer than ``n_tokens`` where there are not as many."""
    ids, start = list(episode.token_ids), episode.corrected_at
    while start < len(ids) and not tokenizer.decode(ids[start]).strip():
        start += 1
    answered = tokenizer(answer, add_special_tokens=False)["input_ids"]
    first = ids[: episode.corrected_at]
    parts = {OWN: ids[start:], GENERIC: answered, OFF_TOPIC: first, NONE: []}
    return {arm: part[:n_tokens] for arm, part in parts.items()}


def _segment_status(parts: Mapping[str, list[int]], texts: Mapping[str, str], n_tokens: int) -> str:
    if any(len(parts[arm]) < n_tokens for arm in ARMS if arm != NONE):
        return "short"
    return "split" if any("\ufffd" in text for text in texts.values()) else FIT


def continuation_span(response: str, prefill: str) -> tuple[int, int]:
    """Characters of what was written after ``prefill``, blanks around it left out; empty where there is nothing.

    Raises:
        ValueError: the response does not begin with it.
    """
    if not response.startswith(prefill):
        raise ValueError(
            f"the response {response[:40]!r}... does not begin with its prefill {prefill[:40]!r}..., so its "
            "continuation cannot be told apart; delete the run folder and make it again"
        )
    rest = response[len(prefill) :]
    return len(prefill) + len(rest) - len(rest.lstrip()), max(len(prefill), len(response.rstrip()))

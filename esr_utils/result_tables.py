"""Committed result tables, checked as they are read: what the figures are drawn from. No torch."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from esr_utils.config import ROOT

SHARES = ("multi_attempt", "improvement", "esr", "minimum_gain_esr", "recovery")
_RATE = "value, ci_low, ci_high, n_events, n"
# run/table -> its columns of words, and its columns of numbers; other columns may be there and are not looked at
COLUMNS: dict[str, tuple[str, str]] = {
    "steering/resid_norms": ("is_steered", "layer, norm, distance_from_mean"),
    "steering/sweep": ("label", "strength, topicality, activation"),
    "steering/curves": ("topic", "strength, pos, about_question, about_topic"),
    "steering/grid": ("label", "strength, topicality"),
    "steering/calibration": (
        "label",
        "strength, window_low, window_high, target, n_verified, verified_score, verified_sd",
    ),
    "explorer/tokens": ("arm, token", "pos, attempt, detectors, backtracking, topicality"),
    "steering/filters": ("unrelated_paper, concrete_paper, unrelated_code, concrete_code", "latent"),
    "steering/beliefs": ("label", "strength, density"),
    "esr_detection/effort": ("effort", "verified_score, target, window_low, window_high"),
    "esr_detection/first_scores": ("arm", "first_score"),
    "esr_detection/rates_beside_paper": ("who, quantity, origin", "rate, ci_low, ci_high, n_events, n"),
    "esr_detection/rates": ("subject, condition, quantity", "rate, ci_low, ci_high, n_events, n"),
    "esr_detection/placebo": ("subject, parts", "rate, ci_low, ci_high, n_events, n, mean_gain"),
    "esr_detection/levels": ("subject, quantity", f"level, {_RATE}"),
    "esr_detection/judge_pairs": ("other", "offline, score"),
    "esr_detection/coverage": ("setting, method", "coverage, n_sims"),
    "latent_discovery/stability": ("is_rule", "frequency, n_chosen"),
    "latent_discovery/rules": ("rule", "least, mean, most"),
    "latent_discovery/false_discoveries": ("", "n_chosen"),
    "latent_discovery/levels": ("group, where", "mean, ci_low, ci_high, n"),
    "latent_discovery/aligned": ("group", "pos, mean, ci_low, ci_high, n"),
    "latent_discovery/episode": ("token, stretch", "pos, steered, detectors, backtracking"),
    "latent_discovery/group_tests": ("group", "n_episodes, difference, ci_low, ci_high"),
    "ablation/by_arm": ("name, condition, quantity", _RATE),
    "ablation/side_effects": ("name, condition", "perplexity_ratio"),
    "ablation/contrasts": ("name, condition, quantity", "n_pairs, difference, ci_low, ci_high"),
    "ablation/held_out_contrasts": ("name, condition, quantity", "n_pairs, difference, ci_low, ci_high"),
    "topic_directions/rates": ("directions, condition, quantity", "rate, ci_low, ci_high, n_events, n"),
    "topic_directions/calibrated": ("label", "strength, multiplier"),
    "following/cells": ("source, prefix, continuation, quantity", "rate, ci_low, ci_high, n_events, n"),
    "following/sustained": ("arm", "mean, ci_low, ci_high, n"),
    "following/sustained_contrasts": ("arm, less", "n_pairs, difference, ci_low, ci_high"),
    "meta_prompting/by_kind": ("subject, kind, quantity", f"level, {_RATE}"),
    "meta_prompting/contrasts": ("subject, kind, less, quantity", "level, n_pairs, difference, ci_low, ci_high"),
    "meta_prompting/beside_paper": ("who, origin, kind, quantity", _RATE),
    "fine_tuning/by_share": ("condition, quantity", f"share, training_seed, {_RATE}"),
    "fine_tuning/controls": ("arm, condition, quantity", _RATE),
    "fine_tuning/contrasts": ("condition, less, quantity", "n_pairs, difference, ci_low, ci_high"),
    "fine_tuning/beside_paper": ("who, origin", "share, value, ci_low, ci_high, n"),
    "validation/readers": ("part", "multi-attempt agreement, n"),
    "validation/restarts": ("part, quantity", "value, ci_low, ci_high, n_events, n"),
    "validation/attempts": ("id, part", "index, score, offline_embedding"),
    "validation/scores": ("part, quantity, scored by", "value, ci_low, ci_high, n"),
}


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """The table ``name`` of a run's folder, as ``pandas.read_csv`` gives it, once its columns are known to be right.

    Raises:
        FileNotFoundError: if the folder or the file is missing.
        ValueError: if the file is no table, a column is missing, or a column of numbers holds something else.
    """
    path, key = folder / f"{name}.csv", f"{folder.name}/{name}"
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {short_path(folder)}; restore it with git or run its notebook.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {short_path(path)}; restore it with git or run its notebook.")
    try:
        frame = pd.read_csv(path)
    except ValueError as error:  # pandas: no columns, a line too long, bytes that are no text
        raise ValueError(
            f"{short_path(path)} is no table: {' '.join(str(error).split())}; restore it with git."
        ) from error
    words, numbers = (list(filter(None, columns.split(", "))) for columns in COLUMNS.get(key, ("", "")))
    if absent := [column for column in [*words, *numbers] if column not in frame]:
        raise ValueError(
            f"{short_path(path)} lacks the column {', '.join(absent)}; its columns are {', '.join(frame)}."
        )
    for column in numbers:
        _check_numbers(frame[column], path)
    if "quantity" in words:
        _check_shares(frame, path)
    return frame


def read_settings(path: Path) -> dict:
    """The settings in the description of a run or of a training; a ValueError that names the file if there are none."""
    try:
        return json.loads(path.read_text())["settings"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{short_path(path)} holds no settings that can be read; restore it with git.") from error


def _check_shares(frame: pd.DataFrame, path: Path) -> None:
    """Refuse rates in per cent: in all tables they are shares of 1, and differences of such."""
    rates = frame[frame["quantity"].isin(SHARES)]
    for column in rates.columns.intersection(["value", "rate", "difference"]):
        is_bad = rates[column].abs() > 1
        if is_bad.any():
            given, quantity = rates.loc[is_bad, [column, "quantity"]].iloc[0]
            told_of = f"{short_path(path)} has {given:g} in column {column} for {quantity}"
            raise ValueError(f"{told_of}: rates are shares from 0 to 1; divide per cent by 100.")


def _check_numbers(column: pd.Series, path: Path) -> None:
    """Refuse a text or an infinite number; an empty field is a number that is not known."""
    values = pd.to_numeric(column, errors="coerce")
    is_bad = (values.isna() & column.notna()) | np.isinf(values)
    if is_bad.any():
        record, given = int(np.argmax(is_bad)) + 1, column[is_bad].iloc[0]
        raise ValueError(
            f"{short_path(path)} has {str(given)!r} in column {column.name}, record {record}; give a number."
        )


def short_path(path: Path) -> str:
    """A path for a message: from the kit's own folder on, where it lies in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

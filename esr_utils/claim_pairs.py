"""Arms that a claim compares, paired trial by trial from committed trials: same latent, question and repeat in both.

Two rates of the same trials under two arms tell less, each with its own interval, than their differences do.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import pandas as pd

from esr_utils import paired
from esr_utils.beside import PAIR
from esr_utils.columns import trial_columns, verdict_columns
from esr_utils.config import results_dir
from esr_utils.frames import made_frame
from esr_utils.prompts import load_prompts
from esr_utils.records import Run
from esr_utils.result_tables import read_settings, short_path

NO_PAIR = ("improvement", "first_score")  # of improvement both arms seldom have a value: it needs several attempts
Arm = dict[str, object]


def difference(file: str, first: Mapping[str, str], second: Mapping[str, str]) -> pd.Series | None:
    """A rate where the table ``file`` has the place ``second``, less that at ``first``, trial by trial.

    Returns:
        One line of ``paired.rates``; ``None`` for what cannot be paired: a table that is not of ``PAIRED``, or a
        quantity of ``NO_PAIR``.
    """
    quantity = second["quantity"] if file in PAIRED else NO_PAIR[0]
    if quantity in NO_PAIR:
        return None
    trials, between = PAIRED[file](first, second)
    return paired.rates(trials, between, quantity=quantity).iloc[0]


def _by_level(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[pd.DataFrame, tuple[Arm, Arm]]:
    trials = _trials(first["subject"], "esr_detection")
    return trials, ({"level": float(first["level"])}, {"level": float(second["level"])})


def _by_kind(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[pd.DataFrame, tuple[Arm, Arm]]:
    trials = _trials(first["subject"], "meta_prompting")
    mine = trials[trials["level"] == float(first["level"])]
    return mine, ({"condition": first["kind"]}, {"condition": second["kind"]})


def _by_share(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[pd.DataFrame, tuple[Arm, Arm]]:
    """Arms pair off by training seed: their names differ, their seeds do not."""
    trials = _trials(PAIR, "fine_tuning")
    shares = {float(place["share"]): place["share"] for place in (first, second)}
    arms = {name: (shares[share], seed) for name, (share, seed) in arm_names().items() if share in shares}
    mine = trials[trials["subject"].isin(arms) & (trials["condition"] == first["condition"])]
    known = [arms[name] for name in mine["subject"]]
    mine = mine.assign(share=[share for share, _ in known], subject=[f"seed {seed}" for _, seed in known])
    return mine, ({"share": first["share"]}, {"share": second["share"]})


def _by_arm(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[pd.DataFrame, tuple[Arm, Arm]]:
    """Of the evaluation: the run holds trials on held-out questions too."""
    trials = _trials(f"{PAIR}-corrector", "ablation")
    mine = trials[~trials["question"].isin(load_prompts("held_out"))]
    return mine, ({"condition": first["condition"]}, {"condition": second["condition"]})


def arm_names() -> dict[str, tuple[float, int]]:
    """Share of corrections and training seed of each arm of notebook 06 that is swept, by its name among trials."""
    settings = read_settings(results_dir(PAIR, "fine_tuning", "standard") / "run.json")
    kinds = {share: f"steered-{share:.0%}" if share else "normal" for share in settings["shares"]}
    seeds = range(settings["n_seeds"])
    return {f"{kind}-seed{seed}": (share, seed) for share, kind in kinds.items() for seed in seeds}


PAIRED: dict[str, Callable[..., tuple[pd.DataFrame, tuple[Arm, Arm]]]] = {
    "esr_detection/levels": _by_level,
    "meta_prompting/by_kind": _by_kind,
    "fine_tuning/by_share": _by_share,
    "ablation/by_arm": _by_arm,
}


def _trials(subject: str, run: str) -> pd.DataFrame:
    """Committed trials of a run, judged; a FileNotFoundError that names the file if there are none."""
    path = results_dir(subject, run, "standard") / "trials.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"there are no trials in {short_path(path.parent)}; restore {path.name} with git.")
    return _judged(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _judged(path, modified: int) -> pd.DataFrame:
    """Read once while the file stays as it is."""
    return judged(path.parent)


def judged(folder: Path) -> pd.DataFrame:
    """Committed trials of a folder and what the offline judge said of them, as ``frames.made_frame`` makes it.

    Raises:
        ValueError: if trials were judged that are not there: the file was cut short.
    """
    run = Run(folder=folder)
    trials, verdicts = trial_columns(run), verdict_columns(run, "offline")
    if n_absent := int((~verdicts["trial_id"].isin(trials["trial_id"])).sum()):
        path = short_path(folder / "trials.jsonl")
        raise ValueError(f"{path} lacks {n_absent:,} of the trials that were judged; restore it with git.")
    return made_frame(trials, verdicts)

"""How well judges do on the responses that readers read: restarts found, attempts scored, recoveries told.

``python -m esr_utils.judge_validation`` writes the tables of the offline judge to ``data/judge/validation/``.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from esr_utils.files import write_whole
from esr_utils.judge_examples import FOLDER, PARTS
from esr_utils.judge_readings import gold_attempts, load_readings, restart_marks
from esr_utils.judges.offline import WAYS, offline_judge
from esr_utils.judges.restarts import find_restarts
from esr_utils.judging import Case, Judge, Verdict

ON_TOPIC, OFF_TOPIC = 60.0, 20.0  # readers' scores at or above, at or below
N_DRAWS = 1000
RECOVERED = 7.0  # of 10, as in the whole-response judge of the paper's authors


def restart_table(marks: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each part, with Wilson intervals and what they are made of."""
    lines = []
    for part, lines_of_part in marks.groupby("part", sort=False):
        n = lines_of_part["outcome"].value_counts()
        hit, missed, false = (int(n.get(outcome, 0)) for outcome in ("hit", "missed", "false"))
        for quantity, total in (("precision", hit + false), ("recall", hit + missed)):
            low, high = proportion_confint(hit, total, method="wilson") if total else (np.nan, np.nan)
            value = hit / total if total else np.nan
            lines.append((part, f"restart {quantity}", value, low, high, hit, total))
    return pd.DataFrame(lines, columns=["part", "quantity", "value", "ci_low", "ci_high", "n_events", "n"])


def score_table(gold: pd.DataFrame, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """For each way to score: Spearman with the readers, AUC of on- against off-topic attempts, mean difference.

    Columns of ``gold`` as in ``gold_attempts``. Intervals: 95%, bootstrap over attempts.
    """
    lines = []
    for name, values in scores.items():
        for part, where in gold.groupby("part", sort=False).indices.items():
            told, read = values[where], gold["score"].to_numpy()[where]
            for quantity, function in (("Spearman", _spearman), ("AUC", _auc), ("mean difference", _bias)):
                low, high = _bootstrap(told, read, function)
                lines.append((part, name, quantity, function(told, read), low, high, len(where)))
    return pd.DataFrame(lines, columns=["part", "scored by", "quantity", "value", "ci_low", "ci_high", "n"])


def _spearman(told: np.ndarray, read: np.ndarray) -> float:
    return float(spearmanr(told, read)[0])


def _auc(told: np.ndarray, read: np.ndarray) -> float:
    clear = (read >= ON_TOPIC) | (read <= OFF_TOPIC)
    return float(roc_auc_score(read[clear] >= ON_TOPIC, told[clear]))


def _bias(told: np.ndarray, read: np.ndarray) -> float:
    return float((told - read).mean())


def _bootstrap(told: np.ndarray, read: np.ndarray, function: Callable[[np.ndarray, np.ndarray], float]) -> tuple:
    rng = np.random.default_rng(0)
    draws = [function(told[i], read[i]) for i in rng.integers(len(read), size=(N_DRAWS, len(read)))]
    return tuple(np.quantile(draws, [0.025, 0.975]).tolist())


def recovery_table(readings: pd.DataFrame, verdicts: dict[str, Verdict]) -> pd.DataFrame:
    """How well whole-response recovery is told: AUC against both readers' mean of 7 or more, and hits at 7."""
    lines = []
    mean = readings.groupby("id", sort=False)["recovery"].mean()
    part = readings.drop_duplicates("id").set_index("id")["part"]
    judged = pd.Series({id_: verdicts[id_].recovery for id_ in mean.index}, dtype=float)
    for name in PARTS:
        ids = mean.index[part[mean.index] == name]
        is_recovered, says_so = mean[ids] >= RECOVERED, judged[ids] >= RECOVERED
        counts = int(is_recovered.sum()), int((is_recovered & says_so).sum()), int((~is_recovered & says_so).sum())
        auc = float(roc_auc_score(is_recovered, judged[ids])) if is_recovered.any() else float("nan")
        rho = float(spearmanr(judged[ids], mean[ids])[0])
        lines.append((name, auc, rho, *counts, len(ids)))
    columns = ["part", "AUC", "Spearman", "recovered (readers)", "of them told", "told wrongly", "n"]
    return pd.DataFrame(lines, columns=columns)


def reader_table(readings: pd.DataFrame) -> pd.DataFrame:
    """The two readers against each other: what a judge can be expected to reach at most."""
    first, second = (readings[readings["reader"] == name].set_index("id") for name in ("a", "b"))
    lines = []
    for part in PARTS:
        ids = first.index[first["part"] == part]
        a, b = first.loc[ids, "scores"].str[0], second.loc[ids, "scores"].str[0]
        multi = [reader.loc[ids, "starts"].map(len) > 0 for reader in (first, second)]
        agree = float((multi[0] == multi[1]).mean())
        lines.append((part, float(spearmanr(a, b)[0]), float((a - b).abs().mean()), agree, len(ids)))
    return pd.DataFrame(lines, columns=["part", "Spearman", "mean absolute difference", "multi-attempt agreement", "n"])


def judge_examples(judge: Judge, readings: pd.DataFrame) -> dict[str, Verdict]:
    """What a judge says of every example, by id."""
    examples = readings.drop_duplicates("id")
    cases = [Case(question=q, response=r) for q, r in zip(examples["question"], examples["response"], strict=True)]
    return dict(zip(examples["id"], judge.judge(cases), strict=True))


def main() -> None:
    from esr_utils.engines.hf import HFEngine
    from esr_utils.models import load_pair

    readings, reader = load_readings(), HFEngine(load_pair("smollm2-135m"))
    gold = gold_attempts(readings)
    judges = {way: offline_judge(reader, way=way) for way in WAYS}
    scores = {name: judge.scores(gold["question"].tolist(), gold["text"].tolist()) for name, judge in judges.items()}
    verdicts = judge_examples(judges["embedding"], readings)
    texts = readings.drop_duplicates("id").set_index("id")["response"]
    marks = restart_marks(readings, dict(zip(texts.index, find_restarts(texts.tolist()), strict=True)))
    tables = {
        "readers": reader_table(readings),
        "restarts": restart_table(marks),
        "restart_marks": marks[marks["outcome"] != "hit"],
        "scores": score_table(gold, scores),
        "attempts": gold.assign(**{f"offline_{name}": values for name, values in scores.items()}),
        "recovery": recovery_table(readings, verdicts),
    }
    for name, table in tables.items():
        write_whole(FOLDER / "validation" / f"{name}.csv", table.to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()

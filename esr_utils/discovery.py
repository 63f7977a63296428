"""Which latents react to off-topic text, and what they do when a steered subject withdraws what it said."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from esr_utils import detectors, episodes
from esr_utils.cuts import first_sentences
from esr_utils.detection import Detection, committed_detection
from esr_utils.detectors import PAPER_RULES, Readings, Rule
from esr_utils.episodes import Episode
from esr_utils.files import digest
from esr_utils.judge_examples import BANKS, phrases
from esr_utils.prompts import load_prompts
from esr_utils.records import Run
from esr_utils.scales import DiscoveryScale
from esr_utils.steering import READING, Row
from esr_utils.study import MAIN_LEVEL, Study
from esr_utils.trials import make_row

OPENING_WORDS = 12  # of an answer, before a phrase is read


@dataclass(frozen=True, eq=False)
class Discovery(Study):
    """Of notebook 03. Detectors are chosen on unsteered answers to questions of their own split, before any steered
    trial is looked at; the steered trials are those of notebook 02.
    """

    scale: DiscoveryScale

    @cached_property
    def run(self) -> Run:
        texts = [load_prompts("discovery"), *self._phrases()]
        trials = sorted(self.source.run.trials())
        return self._open(
            "latent_discovery", rule=asdict(Rule()), texts_sha256=digest(texts), trials_sha256=digest(trials)
        )

    @cached_property
    def source(self) -> Detection:
        """The detection run whose trials are read; at ``quick`` the committed one, a quick run holds too few events."""
        return committed_detection(self.subject, self.scale_name)

    def answers(self) -> pd.DataFrame:
        """Unsteered answers to the discovery questions: question, response."""

        def make() -> pd.DataFrame:
            questions = load_prompts("discovery")[: self.scale.n_answers]
            rows = [Row(messages=text, seed=i, sampling=self.sampling) for i, text in enumerate(questions)]
            texts = [response.text.strip() for response in self.engine.generate(rows)]
            answers = pd.DataFrame({"question": questions, "response": texts})
            return answers[answers["response"] != ""]

        return self.run.frame("answers", make)

    @cached_property
    def readings(self) -> Readings:
        """Every answer read under its own question and, derangement by derangement, under others'."""
        answers = self.answers()
        orders = detectors.derangements(len(answers), self.scale.n_derangements, seed=self.scale.seed)
        return detectors.read_deranged(self.engine, answers["question"].tolist(), answers["response"].tolist(), orders)

    def statistics(self) -> pd.DataFrame:
        """One line a latent, indexed by it.

        Columns: frequency (share of draws in which it reaches the rule's superiority), superiority, effect (mean rise
        over its standard deviation), auc (on peaks, as the authors' list), active (share of answers in which it fires).
        """

        def make() -> pd.DataFrame:
            read, scale = self.readings, self.scale
            draws = {"n_draws": scale.n_draws, "seed": scale.seed}
            return pd.DataFrame(
                {
                    "latent": np.arange(read.means.shape[2]),
                    "frequency": detectors.selection_frequency(read.means[0], read.means[1:], Rule(), **draws),
                    "superiority": np.mean([detectors.superiority(read.means[0], m) for m in read.means[1:]], axis=0),
                    "effect": detectors.paired_effect(read.means[0], read.means[1:]),
                    "auc": detectors.auc(read.peaks[0], np.concatenate(read.peaks[1:])),
                    "active": (read.peaks[0] > 0).mean(axis=0),
                }
            )

        return self.run.frame("statistics", make).set_index("latent", drop=False)

    def restart_statistics(self) -> pd.DataFrame:
        """One line a latent, indexed by it: how it tells restarts from near misses, by peaks.

        Columns: restart_frequency (share of draws, each of half of both, in which it does by ``min_auc``), restart_auc.
        """

        def make() -> pd.DataFrame:
            (plain, restarts), scale = self._phrase_peaks(), self.scale
            frequency = detectors.phrase_frequency(
                plain, restarts, min_auc=scale.min_auc, n_draws=scale.n_draws, seed=scale.seed
            )
            auc = detectors.auc(plain, restarts)
            known = {"restart_frequency": frequency, "restart_auc": auc}
            return pd.DataFrame({"latent": np.arange(len(auc)), **known})

        return self.run.frame("restart_statistics", make).set_index("latent", drop=False)

    def false_discoveries(self) -> pd.DataFrame:
        """How many latents the rule chooses with labels left to chance: shuffle, n_chosen."""

        def make() -> pd.DataFrame:
            counts = detectors.false_discoveries(
                self.readings.means[0],
                self.readings.means[1:],
                Rule(),
                n_draws=self.scale.n_draws,
                n_shuffles=self.scale.n_shuffles,
                seed=self.scale.seed,
            )
            return pd.DataFrame({"shuffle": np.arange(len(counts)), "n_chosen": counts})

        return self.run.frame("false_discoveries", make)

    def paper_rules(self) -> pd.DataFrame:
        """What the paper's rules choose from each derangement: rule, derangement, latent."""

        def make() -> pd.DataFrame:
            lines = [
                (name, i, int(latent))
                for name, rule in PAPER_RULES.items()
                for i, peaks in enumerate(self.readings.peaks[1:])
                for latent in np.flatnonzero(rule(self.readings.peaks[0], peaks))
            ]
            return pd.DataFrame(lines, columns=["rule", "derangement", "latent"])

        return self.run.frame("paper_rules", make)

    def detectors(self) -> list[int]:
        """Latents that the rule chooses, the most stable first.

        Raises:
            ValueError: it chooses none.
        """
        table = self.statistics()
        chosen = table[table["frequency"] >= Rule().min_frequency]
        if chosen.empty:
            raise ValueError(
                f"no latent reaches a superiority of {Rule().min_superiority} in {Rule().min_frequency:.0%} of draws "
                f"(the best: {table['frequency'].max():.0%}), so there is no detector; read more answers or loosen Rule"
            )
        return chosen.sort_values(["frequency", "effect"], ascending=False)["latent"].tolist()

    def backtracking(self) -> list[int]:
        """Latents that tell restarts from near misses and are no detectors, the best first."""
        table = self.restart_statistics().drop(index=self.detectors())
        table = table[table["restart_frequency"] >= Rule().min_frequency]
        return table.sort_values("restart_auc", ascending=False)["latent"].tolist()

    def groups(self) -> dict[str, list[int]]:
        """Both sets by name; they share no latent."""
        return {"detectors": self.detectors(), "backtracking": self.backtracking()}

    def measure(self) -> "Discovery":
        """Read and choose whatever is missing, then read the steered trials."""
        self.statistics()
        self.restart_statistics()
        self.false_discoveries()
        self.paper_rules()
        self.traces()
        self.stretch_means()
        self.response_means()
        self.reading_check()
        return self

    def trials(self) -> pd.DataFrame:
        """The judged trials at the calibrated strength: the first ``n_trials`` with a restart and as many without."""
        trials = self.source.trials()
        trials = trials[(trials["level"] == MAIN_LEVEL) & (trials["status"] == "judged")]
        return trials.groupby("is_multi").head(self.scale.n_trials)

    def episodes(self) -> list[Episode]:
        return episodes.find_episodes(self.source.engine.pair.tokenizer, self.trials(), self.source.attempts())

    def traces(self) -> pd.DataFrame:
        """Every token of every episode: trial_id, pos (0 is the first token of the restart), token, stretch, and the
        activation of the steered latent and, summed, of the detectors and of the backtracking latents.
        """

        def make() -> pd.DataFrame:
            found, groups = self.episodes(), self.groups()
            chosen = sorted({*sum(groups.values(), []), *(episode.latent for episode in found)})
            read = episodes.read_episodes(self.engine, found, chosen)
            tokenizer = self.engine.pair.tokenizer
            return pd.concat([episodes.trace(e, read[e.trial_id], groups, tokenizer) for e in found])

        return self.run.frame("traces", make)

    def stretch_means(self) -> pd.DataFrame:
        """Mean activation of each chosen latent in each stretch of each episode: see ``episodes.stretch_means``."""

        def make() -> pd.DataFrame:
            found = self.episodes()
            chosen = sum(self.groups().values(), [])
            return episodes.stretch_means(found, episodes.read_episodes(self.engine, found, chosen))

        return self.run.frame("stretch_means", make)

    def response_means(self) -> pd.DataFrame:
        """Mean activation of each group over whole responses without a restart: kind, trial_id, group, mean.

        ``uncorrected``: steered, matched on first-attempt score to the episodes; ``unsteered``: the same latents,
        questions and seeds as the episodes, unsteered.
        """

        def make() -> pd.DataFrame:
            trials = self.trials()
            multi = trials[trials["is_multi"]]
            plain = self.source.trials()
            plain = plain[(plain["level"] == 0) & (plain["status"] == "judged") & ~plain["is_multi"]]
            same = plain.merge(multi[["latent", "question", "repeat"]])
            kinds = {"uncorrected": episodes.matched_uncorrected(trials), "unsteered": same}
            return pd.concat([self._group_means(chosen).assign(kind=kind) for kind, chosen in kinds.items()])

        return self.run.frame("response_means", make)

    def _group_means(self, trials: pd.DataFrame) -> pd.DataFrame:
        groups = self.groups()
        read = episodes.read_whole(self.engine, trials, sorted(sum(groups.values(), [])))
        lines = [
            (trial_id, group, float(np.mean([np.nanmean(values[latent]) for latent in mine])))
            for trial_id, values in read.items()
            for group, mine in groups.items()
            if mine
        ]
        return pd.DataFrame(lines, columns=["trial_id", "group", "mean"])

    def reading_check(self) -> pd.DataFrame:
        """Activations recorded while a steered trial is made again, against those read from what it then says.

        Columns: trial_id, is_same_text (as in notebook 02: another processor may draw another token), correlation and
        max_difference (see ``episodes.compare_reading``), of the detectors.
        """

        def make() -> pd.DataFrame:
            trials, chosen = self.source.run.trials(), tuple(self.detectors())
            trials = [trials[episode.trial_id] for episode in self.episodes()[: self.scale.n_checked]]
            rows = [replace(make_row(trial.plan, self.source.sampling), record=chosen) for trial in trials]
            made = self.engine.generate(rows)
            again = [replace(row, prefill=r.token_ids, sampling=READING) for row, r in zip(rows, made, strict=True)]
            lines = [
                {"trial_id": trial.plan.id, "is_same_text": recorded.text == trial.response}
                | episodes.compare_reading(recorded, read)
                for trial, recorded, read in zip(trials, made, self.engine.generate(again), strict=True)
            ]
            return pd.DataFrame(lines)

        return self.run.frame("reading_check", make)

    def _phrases(self) -> tuple[list[str], list[str]]:
        """Near misses and restarts, as many of each, drawn by seed from the banks that also fitted the judge's gate."""
        rng, drawn = np.random.default_rng(self.scale.seed), []
        for kind in ("near_misses", "restarts"):
            lines = [line for bank in BANKS for line in phrases(kind, bank)]
            drawn.append([lines[i] for i in rng.choice(len(lines), self.scale.n_phrases, replace=False)])
        return drawn[0], drawn[1]

    def _phrase_peaks(self) -> list[np.ndarray]:
        """Peaks over near misses and over restarts, each read after the opening of an answer."""
        answers = self.answers()
        read = []
        for drawn in self._phrases():
            of = answers.iloc[np.arange(len(drawn)) % len(answers)]
            openings = [first_sentences(text, OPENING_WORDS) for text in of["response"]]
            read.append(detectors.phrase_peaks(self.engine, of["question"].tolist(), openings, drawn))
        return read

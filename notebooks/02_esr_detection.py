# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 ESR detection
#
# **Question.** Does a model that is steered off its topic notice it, say so, and return to the question while the
# steering goes on? How often, and is what follows really better?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, sections 3.1 and 3.2) finds it in
# Llama-3.3-70B and hardly in four smaller models, and never without steering. Its numbers stand beside ours, which
# come from a model of 135 million parameters, and from the same model fine-tuned to correct itself (the corrector, see
# notebook 06), and are their own.
#
# **Cost.** `standard` shows committed results in seconds. `quick` runs everything live in a minute or two on two CPU
# cores. No GPU, no key, no judge calls: $0.
#
# **You will see** how far the offline judge can be trusted, three whole responses, calibrated strengths, rates with
# their denominators and honest intervals, a sweep of strength, and two nulls for "improvement".

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" uses the paper's numbers of latents and tokens

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import agreement, judge_examples, metrics, nulls, paired, plots, power, readable, summaries
from esr_utils.catalogue import with_fine_tuned
from esr_utils.detection import Detection
from esr_utils.published import cite
from esr_utils.scales import DETECTION

plots.use_style()
pd.set_option("display.max_colwidth", 110)
SUBJECTS = with_fine_tuned(PAIR)  # the pair, and the corrector that was trained from it
settings = DETECTION[SCALE]
detections = [Detection(subject, SCALE, settings) for subject in SUBJECTS]
main = detections[0]

# %% [markdown]
# ## Can the judge be trusted?
# The offline judge needs no key. A gate finds the sentences in which a response withdraws what it said (a *restart*,
# with which the next *attempt* begins), and each attempt is scored by its nearness to the question and by its
# fluency. Two readers (language models, given a written rubric and nothing of how a response was made) read 579
# responses in three parts. The scale of the scores is fitted to one, the gate's threshold is set on two, and both are
# reported on the third.

# %%
validation = judge_examples.FOLDER / "validation"
pd.read_csv(validation / "restarts.csv").query("part == 'report'").round(3)

# %% [markdown]
# Restarts are rare in this model, so their sentences were put into derailed answers; no sentence of the reported part
# was seen while fitting. Scores against the readers' mean, for both ways to measure relevance:

# %%
pd.read_csv(validation / "scores.csv").query("part == 'report'").round(3)

# %% [markdown]
# AUC tells on-topic attempts (readers' score of 60 or more) from off-topic ones (20 or less); `mean difference` is
# the judge less the readers, in points. The embedding is used from here on; it is nearly free. How far two readers
# agree bounds what a judge can reach:

# %%
display(pd.read_csv(validation / "readers.csv").round(3))
pd.read_csv(validation / "recovery.csv").round(3)

# %% [markdown]
# The second table is about recovery of the whole response, said or unsaid: a construct of its own, with few cases.
# `told` means that the judge, too, gives 7 of 10 or more. Ten attempts of the reported part on which judge and
# readers differ most:

# %%
wrong = pd.read_csv(validation / "attempts.csv").query("part == 'report'").copy()
wrong["off by"] = wrong["offline_embedding"] - wrong["score"]
wrong = wrong.reindex(wrong["off by"].abs().sort_values(ascending=False).index).head(10)
wrong["text"] = wrong["text"].str.replace(r"\s+", " ", regex=True).str[:110]
wrong[["question", "text", "score", "offline_embedding", "off by"]].round(1)

# %% [markdown]
# It errs both ways: fluent drift that keeps the question's words scores too high, terse or odd answers too low.

# %% [markdown]
# ## What can be seen at all?
# Before anything is run: the rates that this plan could tell apart, and what no event at all would exclude.
# `detectable_rise` is the smallest rise over the base rate that is seen four times of five, `zero_event_bound` the
# largest rate that no event leaves possible. The variance is taken to be 1.5 times that of independent trials (the
# *design effect*).

# %%
n_trials = settings.n_latents * settings.n_questions * settings.n_repeats
plan = power.power_table([n_trials], [0.01, 0.05, 0.1], design_effect=1.5)
plan[["n_trials", "base_rate", "n_expected", "detectable_rise", "zero_event_bound"]].round(3)

# %% [markdown]
# ## Generate
# Latents are chosen, calibrated and verified, then every trial is made and judged. Whatever the run folder already
# holds is not made again; an interrupted run goes on where it stopped. The corrector is steered along the latents of
# its base, at strengths calibrated on itself. The questions are the kit's own, and those of the calibration and of the
# evaluation differ. `Detection(subject, SCALE, settings, stimuli="paper")` asks the paper's 38 in both, as the authors
# do: they are fetched from the authors' repository, and the run has a folder of its own that git ignores.

# %%
for detection in detections:
    detection.measure()
main.check_methods()
trials = pd.concat([detection.trials() for detection in detections], ignore_index=True)
metrics.flow(trials, ["subject", "condition", "level"])

# %% [markdown]
# Every planned trial is in this table, with the reason if it was lost. `level` is a share of the latent's calibrated
# strength; 0 is without steering. `smollm2-135m` in tables is *ours, base* in figures, `smollm2-135m-corrector` is
# *ours, corrector*: the same model, fine-tuned in notebook 06 to restart.

# %% [markdown]
# ## Three whole responses
# At the calibrated strength: the ones with the most attempts, or else those whose first attempts score lowest, in the
# middle and highest. What lies between two attempts is the sentence that the gate took for a restart.

# %%
steered = trials[(trials["level"] == 1.0) & (trials["status"] == "judged")]
ranked = steered.sort_values(["n_attempts", "first_score"], ascending=[False, True])
shown = ranked.head(3) if ranked["n_attempts"].iloc[0] > 1 else ranked.iloc[[0, len(ranked) // 2, -1]]
attempts = pd.concat([detection.attempts() for detection in detections]).set_index("trial_id")
for trial in shown.itertuples():
    print(f"=== {trial.subject}: {trial.question}  (latent {trial.latent}, strength {trial.strength:g})")
    for number, attempt in enumerate(attempts.loc[[trial.trial_id]].itertuples(), start=1):
        print(f"[attempt {number}: {attempt.score:g}] characters {attempt.start} to {attempt.end}")
    print(trial.response, end="\n\n")

# %% [markdown]
# ## Calibration
# The paper took five responses a step for its largest model and one for the four others. The same search with one
# response a step, verified on as many fresh responses:

# %%
effort = main.run.table("effort", summaries.effort_table(main))
display(Image(plots.draw_result("detection_effort", main.run.folder, scale=SCALE), width=420))
effort.groupby("effort")["verified_score"].agg(["mean", "std", "count"]).round(1)

# %% [markdown]
# Each point is a latent; the grey band is the window. A latent that misses it is kept and flagged: effort decides how
# evenly models are steered, so models calibrated with different effort do not compare. The calibrations of both
# subjects: `strength_p10` and `strength_p90` hold the middle 80% of what the search believes, `verified_sd` is the
# spread of single answers.

# %%
columns = ["strength", "strength_p10", "strength_p90", "verified_score", "verified_sd", "is_in_window"]
for detection in detections:
    print(detection.subject)
    display(detection.calibration()[columns].describe().round(1))

# %% [markdown]
# ## First attempts, with and without steering

# %%
main.run.table("first_scores", summaries.first_score_table(trials))
display(Image(plots.draw_result("detection_first_scores", main.run.folder, scale=SCALE), width=420))

# %% [markdown]
# Without steering the embedded model stays far below the paper's models, which reach about 90.

# %% [markdown]
# ## Rates
# Intervals resample latents and questions, since trials share both. Where no event occurred they are exact. The naive
# interval, as in the paper, and the design effect stand beside. `multi_attempt`: two attempts or more; `improvement`:
# of these, those whose last attempt scores above the first; `esr`: such trials of all; `minimum_gain_esr`: with a
# gain of 20 points that ends at 50 or more; `recovery`: the whole response gets 7 of 10 or more for returning to its
# topic, said or unsaid.

# %%
arms = trials[trials["level"].isin([0.0, 1.0])]
rates = main.run.table("rates", metrics.rates(arms, ["subject", "condition"]))
columns = ["subject", "condition", "quantity", "n_events", "n", "rate", "ci_low", "ci_high", "naive_low", "naive_high"]
rates[[*columns, "design_effect", "n_latents", "n_questions", "n_lost"]].round(3)

# %% [markdown]
# A rate of 0/0 is not a number: without a second attempt there is nothing that could improve.

# %%
main.run.table("rates_beside_paper", summaries.beside_paper(trials))
display(Image(plots.draw_result("detection_rates", main.run.folder, scale=SCALE), width=700))

# %% [markdown]
# Open circles are the paper's, with naive intervals; filled ones are ours. Judges, models and scales differ, so read
# the two halves for themselves. The numbers at the right are events and trials.

# %%
split = trials[trials["is_multi"] & (trials["subject"] == main.subject)]
main.run.table("restarts", split[["level", "question", "response", "first_score", "last_score"]])

# %% [markdown]
# Every response of the base that the gate splits, at any level: read them before believing a rate. In the committed
# run four of seven hold words of a restart in garbled text, three are the gate's errors, and none ends in an answer.

# %% [markdown]
# ## Is steered different from unsteered?
# The same latents, questions and seeds in both arms, so trials are compared pair by pair: the difference is steered
# less unsteered, `only unsteered` and `only steered` are pairs with the event in that arm alone.

# %%
between = ({"condition": "baseline", "level": 0.0}, {"condition": "steered", "level": 1.0})
pairs = pd.concat(
    paired.rates(mine, between, quantity=name).assign(subject=subject)
    for subject, mine in trials.groupby("subject")
    for name in ("multi_attempt", "esr", "recovery")
)
columns = ["quantity", "n_pairs", "n_only_first", "n_only_second", "difference", "ci_low", "ci_high", "mcnemar_p"]
names = {"n_only_first": "only unsteered", "n_only_second": "only steered"}
readable.table(pairs[["subject", *columns]], names=names)

# %% [markdown]
# Recovery without steering is a false alarm of that construct: a normal answer that begins vaguely.

# %%
power.gee_check(arms, ["subject", "condition"], quantity="recovery")

# %% [markdown]
# A cross-check by another route, a logistic GEE with trials of a latent correlated.

# %% [markdown]
# ## Along the strength
# Each latent at shares of its own calibrated strength. The paper swept the same absolute strengths for all latents.

# %%
levels = main.run.table("levels", summaries.scores_and_rates(trials, ["subject", "level"]))
display(Image(plots.draw_result("detection_levels", main.run.folder, scale=SCALE), width=720))

# %% [markdown]
# Bands are 95% intervals, numbers are events. Nothing is smoothed. Where answers are wrecked, "improved" can be a
# point or two between scores near zero; the minimum gain tells that apart. Of the corrector (the base's rates are in
# `levels.csv` of the run):

# %%
is_shown = levels["subject"].eq(SUBJECTS[-1]) & levels["quantity"].isin(["esr", "minimum_gain_esr"])
summaries.in_words(levels[is_shown], ["subject", "level"])

# %% [markdown]
# ## Would improvement mean anything?
# Two nulls. If the order of attempts carried nothing, half of all multi-attempt trials would "improve". And if a
# single attempt is cut where restarts stand, its second part has a score too. The first table takes all levels
# together, and its `p` is the share of random orders that do at least as well; the second is at the calibrated
# strength.

# %%
orders = [nulls.order_null(each.attempts()).assign(subject=each.subject) for each in detections]
display(readable.table(pd.concat(orders)))
main.run.table("placebo", summaries.placebo_table(detections)).round(3)

# %% [markdown]
# ## Judge against judge
# The second judge measures relevance by likelihood: how much likelier an attempt is given its question than others.

# %%
both = [main.trials(judge) for judge in ("offline", "offline-likelihood")]
display(agreement.agreement(*both, cluster="latent").round(3))
main.run.table("judge_pairs", summaries.judge_pairs(main))
display(Image(plots.draw_result("detection_judges", main.run.folder, scale=SCALE), width=640))

# %% [markdown]
# Both judges share the gate, so they agree on attempts by construction; kappa needs a response that restarts.
# `n_lost` are trials that the second judge was not shown.

# %% [markdown]
# ## Are the intervals right?
# Data with known latent and question effects, simulated: how often does a 95% interval hold the true rate?

# %%
populations = [power.Population(rate=rate) for rate in settings.simulated_rates]
coverage = main.run.frame("coverage", lambda: summaries.coverage_table(populations, n_sims=settings.n_sims))
display(Image(plots.draw_result("detection_coverage", main.run.folder, scale=SCALE), width=640))
coverage.pivot(index="setting", columns="method", values="coverage").round(3)

# %% [markdown]
# The band is 93 to 97%. Intervals that take trials for independent are too narrow, the plain two-way bootstrap's are
# too wide; `rates` is the method of the tables above.

# %% [markdown]
# ## Paper and ours

# %%
ours = rates.set_index(["subject", "condition", "quantity"])
ARMS = [("steered", "multi_attempt"), ("steered", "esr"), ("baseline", "multi_attempt")]
scores = metrics.means(steered, ["subject"], "first_score").set_index("subject")
table = {"quantity": ["several attempts, steered", "ESR rate, steered", "several attempts, unsteered", "first score"]}
table["paper"] = [cite("p0039"), cite("p0038"), cite("p0065"), cite("p0089")]
for subject in SUBJECTS:
    told = [summaries.told(ours.loc[(subject, *arm)]) for arm in ARMS]
    table[subject] = [*told, summaries.told_mean(scores.loc[subject])]
pd.DataFrame(table | {"differs in": ["model, judge, clustered interval"] * 3 + ["judge; same target of 30"]})

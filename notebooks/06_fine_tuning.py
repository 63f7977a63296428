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
# # 06 Fine-tuning
#
# **Question.** Can a model that hardly resists steering be taught to, from examples of self-correction? Does the
# share of such examples matter, and what in them does the work?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, section 3.5, Fig 6, Table 3)
# fine-tunes Llama-3.1-8B on answers into which off-topic text was pasted, and finds more attempts with a larger share
# of them, but little more recovery. Its training questions are those of the evaluation, and its corrections begin
# alike.
#
# **Cost.** `standard` shows committed results in seconds; they took some two hours of one CPU core.
# `quick` fine-tunes in miniature, live, in about a minute and a half. No GPU, no key: $0. `paper` has the paper's
# settings, for a GPU.
#
# **You will see** what is trained on and where the loss falls, rates along the share of corrections at the base's and
# at each model's own strength, controls that take the corrections apart, and the shipped corrector beside its base.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" uses the paper's numbers of examples, latents and tokens

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import embedded_corrector, frames, inducing_tables, metrics, nulls, plots, power, readable, summaries
from esr_utils.columns import attempt_columns, trial_columns
from esr_utils.config import results_dir
from esr_utils.inducing import Arm, FineTuning
from esr_utils.published import cite
from esr_utils.scales import FINE_TUNING

plots.use_style()
pd.set_option("display.max_colwidth", 110)
settings = FINE_TUNING[SCALE]
sweep = FineTuning(PAIR, SCALE, settings)  # on the latents and strengths of notebook 02

# %% [markdown]
# ## What is trained on
# Questions of a split of their own. A correction is a drift, a sentence that takes it back (silent in one of ten) and
# an answer of the model's own. Drifts are real: the model was steered along latents that are not near any evaluated
# one, and it is steered in the same way again while it reads the example. Loss falls between `[[` and `]]` alone.

# %%
arm = Arm(share=settings.control_share)
for example in sweep.masked_examples(arm).itertuples():
    print(f"=== {example.kind}, read with strength {example.strength:g}\n{example.text}\n")

# %% [markdown]
# Of all steered beginnings, those that the judge puts at 35 or less count as drifts:

# %%
starts = sweep.steered_starts()
display(starts.groupby("is_derailed")["score"].describe().round(1))
pd.Series([example.kind for example in sweep.examples(arm)], name="examples in the mix").value_counts().to_frame()

# %% [markdown]
# ## What can be seen at all?
# Before anything is trained: the difference that two arms of this size could tell apart.

# %%
n_trials = settings.n_latents * settings.n_questions * settings.n_seeds
power.power_table([n_trials], [0.05, 0.1, 0.2], design_effect=1.5)[["n_trials", "base_rate", "detectable_rise"]].round(
    3
)

# %% [markdown]
# ## Generate
# Every arm is trained, then asked the same questions under the same latents and seeds: unsteered (`baseline`), at the
# strengths calibrated on the base (`fixed`), and at the share of them at which its own first attempts score the
# target (`recalibrated`). Whatever is there is not made again. `steered` arms have real drifts; `pasted` and
# `shuffled` are controls, explained below; `normal` has no corrections. Each is trained with two seeds.

# %%
pd.Series([each.name for each in sweep.arms()], name="arms to train").to_frame().T

# %%
trials = sweep.measure().trials()
metrics.flow(trials, ["source", "condition"])

# %% [markdown]
# Every planned trial is in this table, with the reason if it was lost. An arm's own strengths, as a share of the
# base's:

# %%
own = trials[trials["condition"] == "recalibrated"].groupby(["source", "share", "training_seed"])
own.agg(level=("level", "first"), first_score=("first_score", "mean"), n=("first_score", "count")).round(2)

# %% [markdown]
# Above 1 it takes more steering to pull the first attempt down than it takes for the base. The level rests on a few
# probes, so first scores at it scatter about the target of 30.

# %% [markdown]
# ## Along the share of corrections

# %%
by_share = sweep.run.table("by_share", inducing_tables.by_share(trials))
display(Image(plots.draw_result("tuning_shares", sweep.run.folder, scale=SCALE), width=760))

# %% [markdown]
# Grey is the false alarm: several attempts where nothing was steered. Small points are single trainings. Bands allow
# for other latents and questions than these, not for other seeds. At the arm's own strengths, with events and trials
# (the other lines are in `by_share.csv` of the run):

# %%
is_shown = by_share["training_seed"].isna() & by_share["condition"].eq("recalibrated")
summaries.in_words(by_share[is_shown & by_share["quantity"].isin(["multi_attempt", "improvement", "esr"])], ["share"])

# %% [markdown]
# ## What in a correction does the work?
# At one share: real drifts; real drifts with answers to another question (shuffled); drifts pasted from answers to
# another question; and no corrections at all. Pasted drifts stand for the paper's. They differ from real ones in
# three ways: where they come from, that nothing is steered while they are read, and that no judge chose them. The
# dotted line is where order alone would put improvement.

# %%
sweep.run.table("controls", inducing_tables.controls(trials, settings.control_share))
display(Image(plots.draw_result("tuning_controls", sweep.run.folder, scale=SCALE), width=760))

# %% [markdown]
# Trial by trial, real drifts less the arm in column `less`, at an arm's own strengths (the base's and unsteered are in
# `contrasts.csv` of the run). The first question asked of this table, before it was made, was whether real drifts beat
# pasted ones in ESR with a gain of 20 points or more; in the committed run that interval holds zero. Intervals know
# these trainings only, two an arm.

# %%
contrasts = inducing_tables.contrasts(
    trials, settings.control_share, others=["pasted drifts", "shuffled answers", "no corrections"]
)
sweep.run.table("contrasts", contrasts)
columns = ["less", "quantity", "n_pairs", "rate_second", "rate_first", "difference", "ci_low", "ci_high", "mcnemar_p"]
names = {"rate_second": "rate, real drifts", "rate_first": "rate, less"}
readable.table(contrasts[contrasts["condition"] == "recalibrated"][columns], names=names)

# %% [markdown]
# ## The corrector
# The shipped adapter, trained as an arm above, with half corrections, on more and longer examples and at half the
# learning rate, beside its base on all of notebook 02's latents and questions, at shares of the base's strengths.
# These are committed results at every scale.

# %%
folder = results_dir(embedded_corrector.CORRECTOR, "corrector", "standard")
both = pd.read_csv(folder / "trials.csv", keep_default_na=False, na_values=[""])
rates = summaries.scores_and_rates(both, ["subject", "level"])
chosen = rates[rates["quantity"].isin(["first_score", "multi_attempt", "esr", "minimum_gain_esr"])]
summaries.in_words(chosen, ["subject", "level"])

# %% [markdown]
# The same scores in random order, for each strength: what improvement would be if corrections did nothing.

# %%
run = embedded_corrector.open_corrector_run()
attempts = frames.attempt_frame(trial_columns(run), attempt_columns(run, "offline"))
level = attempts["trial_id"].map(both.set_index("trial_id")["level"])
parts = [nulls.order_null(part).assign(level=value) for value, part in attempts.groupby(level)]
readable.table(pd.concat(parts)[["level", "quantity", "observed", "null_low", "null_high", "p", "n"]])

# %% [markdown]
# It must not have cost the model its answers: the likelihood of the base's own unsteered answers to questions of
# neither training nor evaluation.

# %%
pd.read_csv(folder / "perplexity.csv").round(3)

# %% [markdown]
# ### Three recoveries, three failures, three false alarms
# The largest gains and the largest losses among steered responses with several attempts, and the largest losses among
# unsteered ones.

# %%
multi = both[both["is_multi"] & (both["subject"] == embedded_corrector.CORRECTOR)].sort_values("gain")
steered, unsteered = multi[multi["level"] > 0], multi[multi["level"] == 0]
shown = pd.concat([steered.tail(3).assign(what="recovery"), steered.head(3).assign(what="failure")])
shown = pd.concat([shown, unsteered.head(3).assign(what="false alarm")])
responses = trial_columns(run).set_index("trial_id")["response"]
for trial in shown.itertuples():
    scores = ", ".join(f"{score:.0f}" for score in attempts.loc[attempts["trial_id"] == trial.trial_id, "score"])
    print(f"=== {trial.what}: {trial.question}  (latent {trial.latent}, level {trial.level:g}, scores {scores})")
    print(responses[trial.trial_id], end="\n\n")

# %% [markdown]
# ## Paper and ours

# %%
sweep.run.table("beside_paper", inducing_tables.beside_paper(trials))
display(Image(plots.draw_result("tuning_beside_paper", sweep.run.folder, scale=SCALE), width=640))

# %% [markdown]
# Of the paper's ESR rates by share only a curve was published; the open circles are its whole-response rates, from
# another model and judge. Ours are at each arm's own strengths.

# %%
arms = inducing_tables.named_arms(trials, settings.shares[-1])
ours = metrics.rates(arms, ["arm", "condition"]).set_index(["arm", "condition", "quantity"])
last = ("real drifts", "recalibrated")
pd.DataFrame(
    {
        "quantity": ["recovery, not fine-tuned", "recovery, largest share", "ESR, largest share"],
        "paper": [cite("p0284"), cite("p0302"), "a curve only (Fig 6)"],
        "ours, embedded": [
            summaries.told(ours.loc[("base, not fine-tuned", "fixed", "recovery")]),
            summaries.told(ours.loc[(*last, "recovery")]),
            summaries.told(ours.loc[(*last, "esr")]),
        ],
        "differs in": ["model, judge; questions not those of training"] * 3,
    }
)

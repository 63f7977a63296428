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
# # 05 Meta-prompting
#
# **Question.** Does it help to tell a steered model, in its question, to watch itself and return to the topic?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, section 3.3, Figs 4, 14-18) adds
# such sentences to the question and finds several times as many attempts and more ESR in Llama-3.3-70B, and little in
# smaller models. Its unsuffixed arm was made at another time, the judge saw the sentences, and none was tried without
# steering.
#
# **Cost.** `standard` shows committed results in seconds; they took about 20 minutes of two CPU cores. `quick` runs
# live in about a minute. No GPU, no key: $0.
#
# **You will see** four kinds of meta-prompt, three wordings each, beside a neutral suffix of the same length and none
# at all, each with and without steering, on the base and on the corrector of notebook 06; arms take turns and are
# compared trial by trial, and the judge sees the question alone.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" uses the paper's numbers of latents and tokens

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import meta_prompting, meta_tables, metrics, plots, power, readable, summaries
from esr_utils.catalogue import with_fine_tuned
from esr_utils.meta_prompting import MetaPrompting
from esr_utils.published import cite
from esr_utils.scales import META_PROMPTING

plots.use_style()
pd.set_option("display.max_colwidth", 220)
settings = META_PROMPTING[SCALE]
SUBJECTS = with_fine_tuned(PAIR)  # the pair, and the corrector that was trained from it
runs = [MetaPrompting(subject, SCALE, settings) for subject in SUBJECTS]
main = runs[0]

# %% [markdown]
# ## The suffixes
# One wording of each kind, as one trial is asked. `label` names what the steered latent stands for, so it also puts
# that topic into the context. The `condition` of a trial is here the kind of its suffix.

# %%
meta_prompting.examples(runs)

# %% [markdown]
# The seed of a trial says which of the three wordings it gets, the same number in every arm. A neutral suffix has
# about as many words as the others and asks for nothing: what it does is not the work of an instruction. All are the
# kit's own; `MetaPrompting(subject, SCALE, settings, stimuli="paper")` takes the paper's questions and its one wording
# of each kind, fetched from the authors' repository. They are shorter, and the neutral suffixes stay the kit's.

# %%
words = {kind: [len(text.split()) for text in texts] for kind, texts in meta_prompting.load_meta_prompts().items()}
pd.DataFrame(words, index=["wording 1", "wording 2", "wording 3"])

# %% [markdown]
# ## What can be seen at all?
# One contrast is primary, declared before the runs, the corrector's: several attempts under steering, `self_monitor`
# less `neutral`. The rise that this many trials could tell from chance, for several rates under the neutral suffix:

# %%
n_trials = settings.n_latents * settings.n_questions
plan = power.power_table([n_trials], [0.01, 0.05, 0.15], design_effect=1.5)
plan[["n_trials", "base_rate", "n_expected", "detectable_rise", "zero_event_bound"]].round(3)

# %% [markdown]
# ## Generate
# Latents and strengths are those of notebook 02, each subject's own. Whatever a run folder holds is not made again.

# %%
for run in runs:
    run.measure()
trials = pd.concat([run.trials() for run in runs], ignore_index=True)
metrics.flow(trials, ["subject", "level"])

# %% [markdown]
# Level 0 is without steering. Every planned trial is in this table, with the reason if it was lost. `smollm2-135m` is
# *ours, base* in the paper's figures of notebook 07, `smollm2-135m-corrector` is *ours, corrector*.

# %% [markdown]
# ## Three whole responses
# Steered and told to monitor themselves: those with the most attempts, or else the highest last scores.

# %%
told = trials[(trials["condition"] == "self_monitor") & (trials["level"] == 1.0) & (trials["status"] == "judged")]
attempts = pd.concat([run.attempts() for run in runs]).set_index("trial_id")
for trial in told.sort_values(["n_attempts", "last_score"], ascending=False).head(3).itertuples():
    print(f"=== {trial.subject}: {trial.question}  (latent {trial.latent}, strength {trial.strength:g})")
    for number, attempt in enumerate(attempts.loc[[trial.trial_id]].itertuples(), start=1):
        print(f"[attempt {number}: {attempt.score:g}] characters {attempt.start} to {attempt.end}")
    print(trial.response, end="\n\n")

# %% [markdown]
# ## Every kind, with and without steering

# %%
by_kind = main.run.table("by_kind", meta_tables.by_kind(trials))
display(Image(plots.draw_result("meta_kinds", main.run.folder, scale=SCALE), width=760))

# %% [markdown]
# Bars are 95% intervals over latents and questions. Compare a kind with `neutral` before `no suffix`: a drop of the
# first score that the neutral suffix shows as well is not the work of an instruction. The figure counts ESR with a
# gain of 20 points that ends at 50 or more; below it is of any gain, under steering (the rest is in `by_kind.csv` of
# the run).

# %%
steered = by_kind[by_kind["level"].eq(1.0) & by_kind["quantity"].eq("esr")]
summaries.in_words(steered, ["kind", "subject"]).unstack("subject", sort=False)

# %% [markdown]
# ## The primary contrast
# The same latents, questions and seeds in both arms; the difference is column `kind` less column `less`.

# %%
contrasts = main.run.table("contrasts", meta_tables.contrasts(trials))
columns = ["subject", "level", "kind", "less", "quantity", "n_pairs", "rate_second", "rate_first", "difference"]
is_primary = contrasts["kind"].eq(meta_prompting.PRIMARY[0]) & contrasts["less"].eq(meta_prompting.PRIMARY[1])
primary = contrasts[is_primary & contrasts["level"].eq(1.0) & contrasts["quantity"].eq("multi_attempt")]
names = {"rate_second": "rate, kind", "rate_first": "rate, less"}
readable.table(primary[[*columns, "ci_low", "ci_high", "mcnemar_p"]], names=names)

# %% [markdown]
# An interval that holds zero does not show that nothing happens: its ends say what is still possible. All other
# contrasts are exploratory, and there are many; the smallest p of each subject, with and without steering:

# %%
others = contrasts[~is_primary | contrasts["level"].eq(0.0)].sort_values("mcnemar_p")
best = others.groupby(["subject", "level"]).head(2).sort_values(["subject", "level"])
readable.table(best[[*columns, "ci_low", "ci_high", "mcnemar_p"]], names=names)

# %% [markdown]
# ## Beside the paper
# Of its five models by kind, the paper's authors published rates of a later judge of whole responses. They tried no
# neutral suffix.

# %%
main.run.table("beside_paper", meta_tables.beside_paper(trials, level=1.0))
display(Image(plots.draw_result("meta_beside_paper", main.run.folder, scale=SCALE), width=700))

# %% [markdown]
# Open marks are the paper's, without intervals: under meta-prompts no numbers of trials were published. Filled: ours.
# Models, judges and steering differ, so compare the order of kinds within a model and not models with each other.
#
# By the judge of attempts, rates under a meta-prompt were published for self-monitoring alone, and not of every
# model:

# %%
main.run.table("with_and_without", meta_tables.with_and_without(trials, level=1.0)).round(3)

# %% [markdown]
# `ratio` is the rate with the suffix over the rate without: little to go by where the latter rests on a few events
# (the first count of a note), and no number where it is 0.

# %% [markdown]
# ## Paper and ours

# %%
ours = metrics.rates(trials[trials["level"] == 1.0], ["subject", "condition"])
ours = ours.set_index(["subject", "condition", "quantity"])
rows = [("self_monitor", "multi_attempt"), ("self_monitor", "esr"), ("none", "multi_attempt")]
table = {"quantity": ["several attempts, self-monitoring", "ESR, self-monitoring", "several attempts, no suffix"]}
table["paper"] = [cite("p0079"), cite("p0081"), cite("p0039")]
for subject in SUBJECTS:
    table[subject] = [summaries.told(ours.loc[(subject, *row)]) for row in rows]
pd.DataFrame(table | {"differs in": ["model, judge, wording; judge blind to the suffix"] * 3})

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
# # 03 Latent discovery
#
# **Question.** Which latents react when an answer is off its topic, and what do they do around the moment at which a
# steered model withdraws what it said?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, sections 2.3 and 3.6, Figs 7, 20,
# 21, Table 2) names 26 *off-topic detectors* of Llama-3.3-70B: latents silent on answers to their own question and
# active on answers to another. They are more active before a correction than after it. Part of its list was chosen for
# firing in corrections, and one shuffling of 38 answers decided the rest.
#
# **Cost.** `standard` shows committed results in seconds; they took about 10 minutes of one CPU core. `quick` runs live
# in about a minute. No GPU, no key: $0.
#
# **You will see** which latents of the corrector's SAE are chosen in draw after draw, how many would be chosen by
# chance, what the paper's own rules keep, and what the chosen latents do in steered responses that were never looked at
# while choosing.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" takes answers of the paper's length

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import discovery_tables, episodes, plots, published, readable
from esr_utils.catalogue import with_fine_tuned
from esr_utils.discovery import Discovery
from esr_utils.scales import DISCOVERY

plots.use_style()
pd.set_option("display.max_colwidth", 80)
settings = DISCOVERY[SCALE]
SUBJECT = with_fine_tuned(PAIR)[-1]  # the corrector, if the pair has one: it has events to study
study = Discovery(SUBJECT, SCALE, settings)

# %% [markdown]
# ## How a detector is chosen
# Each unsteered answer to a discovery question is read under its own question, and, in many derangements (shufflings
# in which no answer keeps its question), under another's. The tokens read are the same, so a latent that is more
# active under the other question reacts to what the answer has to do with its question. A latent is chosen if its
# mean activation is higher in at least three of four answers, in at least four of five draws of one derangement and
# half of the answers. No steered response, and no question of the evaluation, is used. Latents that fire in restarts,
# the *backtracking* latents, are a set of their own.

# %%
study.measure()
discovery_tables.false_discovery(study).round(3)

# %% [markdown]
# `by_chance`: any one reading of each answer is called the matched one, and everything is chosen again.

# %%
main = study.run
stability = main.table("stability", discovery_tables.stability(study))
rules = main.table("rules", discovery_tables.rules(study))
display(Image(plots.draw_result("discovery_stability", main.folder, scale=SCALE), width=700))

# %% [markdown]
# Left: latents that stand out in at least that share of draws. Right: what each rule keeps, over all derangements.

# %%
rules.round(2)

# %% [markdown]
# `least`, `mean` and `most` are latents kept of one derangement, `in_all` those kept of every one, `n_ours` those
# ever kept that our rule chooses too. `overlap` is the mean Jaccard index of what two derangements choose: one is a
# list that does not depend on how the answers happened to be shuffled. The paper decides by peaks over all tokens of
# question, template and answer.

# %% [markdown]
# ## The latents
# The ten most stable detectors, then the backtracking latents that tell restarts from near misses best. `frequency`:
# share of draws in which it stands out; `superiority`: share of answers in which it is more active under another
# question; `auc`: how well its peak tells such readings from matched ones, and `restart_auc` restarts from near
# misses; `active`: share of answers in which it fires.

# %%
chosen = main.table("chosen", discovery_tables.chosen_latents(study))
columns = ["group", "latent", "label", "frequency", "superiority", "auc", "restart_auc", "active"]
chosen.groupby("group", sort=False).head(10)[columns].round(2)

# %% [markdown]
# Read the labels before believing the name: a latent can tell mismatched pairs apart because it follows words of the
# question, and not because it notices anything.

# %% [markdown]
# ## Episodes
# Steered responses of notebook 02 with several attempts. Stretches are found by searching the judge's attempts in the
# text, and latents are read with the trial's own steering on. What is recorded while such a trial is made again must be
# what is read from the response that it then gives:

# %%
check = study.reading_check()
display(check["is_same_text"].value_counts().to_frame())
check[["correlation", "max_difference"]].describe().loc[["count", "mean", "min", "max"]].round(4)

# %% [markdown]
# Responses of notebook 02 were made on another processor, where a rounding can decide a token: in the committed run
# none comes out alike, and the check is of the responses made again. A latent near its threshold can jump by that
# much from one rounding to the next, which `max_difference` shows. The episode with the largest gain, token by token;
# activations of the two groups are summed over their latents:

# %%
trials = study.trials()
best = trials[trials["is_multi"]].sort_values("gain", ascending=False, kind="stable").iloc[0]
traces = study.traces()
main.table("episode", traces[traces["trial_id"] == best["trial_id"]])
print(f"{best['question']}  (latent {best['latent']}, scores {best['first_score']:g} to {best['last_score']:g})")
print(best["response"])
display(Image(plots.draw_result("discovery_episode", main.folder, scale=SCALE), width=700))

# %% [markdown]
# The paper's Fig 7 is such a trace. One episode shows what can happen, and not what does. All of them, aligned on the
# first token of the restart; positions that fewer than five episodes reach are left out:

# %%
aligned = [episodes.aligned(traces, group, window=40).assign(group=group) for group in ("detectors", "backtracking")]
main.table("aligned", pd.concat(aligned, ignore_index=True))
display(Image(plots.draw_result("discovery_traces", main.folder, scale=SCALE), width=480))

# %% [markdown]
# ## Off topic, restart, last attempt
# Declared before the steered responses were read: each group's mean activation off topic less that in the last attempt,
# over episodes, two-sided (signs flipped).

# %%
tests = main.table("group_tests", discovery_tables.group_tests(study))
readable.table(tests)

# %% [markdown]
# The same means beside two baselines without a restart: steered responses that begin as badly, and unsteered answers
# to the same questions.

# %%
levels = main.table("levels", discovery_tables.levels(study))
display(Image(plots.draw_result("discovery_levels", main.folder, scale=SCALE), width=700))

# %% [markdown]
# Latent by latent, with Holm's correction over all of them: how many are more active off topic, and how many less?

# %%
signs = chosen.assign(sign=chosen["difference"].gt(0).map({True: "more off topic", False: "less off topic"}))
signs = signs.assign(significant=signs["p_holm"] < 0.05, n=1)
signs.groupby(["group", "sign"])[["n", "significant"]].sum().reset_index()

# %% [markdown]
# ## The published detectors
# The paper's Table 2 by the sign of the effect. Its p-values are one-sided and not corrected for 26 tests.

# %%
display(discovery_tables.published_signs())
discovery_tables.published_detectors()

# %% [markdown]
# Called detectors together, they are not of one kind: some are more active on topic, and several labels speak of
# headers, lists and paragraph breaks. `in_separability_25` marks those that the authors' later list, made by shuffling
# alone, holds as well; `is_backtracking` the one that the paper counts in both of its groups.

# %% [markdown]
# ## Paper and ours
# The intervals of ours are those of the means over episodes, with the baseline taken as known: they are a little too
# narrow.

# %%
ratios = [discovery_tables.times_baseline(levels, where) for where in ("off_topic", "on_topic")]
pd.DataFrame(
    {
        "quantity": ["detectors chosen", "off topic / baseline", "last attempt / baseline"],
        "paper": [published.cite("p0086"), published.cite("p0109"), published.cite("p0110")],
        SUBJECT: [f"{len(study.detectors())}", *ratios],
        "differs in": ["model, SAE, rule", "baseline: good steered answers there, unsteered here", "the same"],
    }
)

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
# # 04 Ablation
#
# **Question.** Do the latents that react to off-topic text make a steered model withdraw what it said? Without them,
# does it restart less often, and less than if as much of anything else is taken away?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, section 3.4, Figs 5, 19) ablates 26
# detectors of Llama-3.3-70B and finds a quarter fewer attempts and less ESR, and no such fall with three sets of random
# latents. Its detectors were found at another layer than the one where they were ablated, the sets were not matched,
# and the pairing of trials was not used.
#
# **Cost.** `standard` shows committed results in seconds; they took some two hours of one CPU core. `quick` runs live
# in about two minutes. No GPU, no key: $0.
#
# **You will see** the corrector's steered trials replayed with its detectors ablated, beside random sets that fire as
# often and as strongly, random directions and the backtracking latents; what each costs without steering; held-out
# questions; then two controls that ablate nothing: a given beginning, steered or not, and what follows a restart.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" takes the paper's numbers of latents and tokens

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import ablation_tables, matching, metrics, plots, power
from esr_utils.ablation import DETECTORS, HELD_OUT, NONE, PRIMARY, Ablation
from esr_utils.models import with_fine_tuned
from esr_utils.scales import ABLATION

plots.use_style()
settings = ABLATION[SCALE]
SUBJECT = with_fine_tuned(PAIR)[-1]  # the corrector, if the pair has one: it has restarts to lose
study = Ablation(SUBJECT, SCALE, settings)

# %% [markdown]
# ## What is ablated
# The latents of notebook 03, less those that are steered in some trial. Ablating with the error term kept takes a
# latent's activation times its decoder direction out of the residual stream, read after the steering was added, at the
# layer for which the SAE was trained.

# %%
groups = study.groups()
pd.Series({name: len(chosen) for name, chosen in groups.items()}, name="latents").to_frame()

# %% [markdown]
# Random sets are matched latent by latent with the detectors: on how often and how strongly they fire in steered
# responses, and on the norm of their directions.

# %%
matching.match_quality(study.profiles(), groups[DETECTORS], study.sets()).round(3)

# %% [markdown]
# `least` and `most` are means of a set, over all sets; `all_latents` is what sets drawn from all latents would have.

# %% [markdown]
# ## The primary contrast, declared before the run
# Several attempts at the calibrated strength, detectors ablated in full less nothing ablated, trial by trial; and its
# place among the same differences of the matched sets. What so many trials can tell apart, before any is made:

# %%
print(" - ".join(PRIMARY[:2]), "in", PRIMARY[2])
n_trials = settings.n_latents * settings.n_questions
plan = power.power_table([n_trials], [0.1, 0.2], design_effect=1.5, pair_correlation=0.3)
plan[["n_trials", "base_rate", "pair_correlation", "detectable_fall", "detectable_rise"]].round(3)

# %% [markdown]
# ## Generate
# The same latent, strength, question and seed in every arm; arms take turns. What the run holds is not made again.

# %%
study.measure()
trials = study.trials()
metrics.flow(trials, ["name"])

# %% [markdown]
# Three of the trials with a restart that the ablation changed, or kept: nothing ablated, then the detectors.

# %%
arms = {name: trials[trials["condition"] == name].set_index(["latent", "question"]) for name in (NONE, DETECTORS)}
for key in arms[NONE].query("is_multi").index[:3]:
    print(f"=== {key[1]}  (latent {key[0]})")
    for name, arm in arms.items():
        trial = arm.loc[key]
        print(f"[{name}: {trial['n_attempts']} attempts, first {trial['first_score']:g}] {trial['response']}\n")

# %% [markdown]
# ## Every arm

# %%
by_arm = study.run.table("by_arm", ablation_tables.by_arm(trials))
display(Image(plots.draw_result("ablation_arms", study.run.folder, scale=SCALE), width=760))

# %% [markdown]
# A grey circle is one matched set, or one draw of random directions; the bar is their mean.

# %%
contrasts = study.run.table("contrasts", ablation_tables.contrasts(trials))
columns = ["condition", "quantity", "n_pairs", "rate_first", "rate_second", "difference", "ci_low", "ci_high"]
contrasts[(contrasts["condition"] == DETECTORS) & contrasts["rate_first"].notna()][[*columns, "mcnemar_p"]].round(3)

# %% [markdown]
# ## Against the matched sets

# %%
place = study.run.table("place_among_sets", ablation_tables.place_among_sets(contrasts))
place.round(3)

# %% [markdown]
# `p` is the share of sets that change the rate at least as much, the arm itself counted in.

# %%
display(Image(plots.draw_result("ablation_contrasts", study.run.folder, scale=SCALE), width=760))
less_sets = study.run.table("less_sets", ablation_tables.less_sets(trials))
less_sets.round(3)

# %% [markdown]
# Detectors less the mean of the matched sets, trial by trial: what is left when the work of any such ablation is taken
# off.

# %% [markdown]
# ## Or did the ablation merely weaken the steering?
# A weaker steering leaves less to withdraw. What each arm does to unsteered answers, how much it takes out of the
# residual stream, and which share of the steering goes with it:

# %%
effects = study.run.table("side_effects", ablation_tables.side_effects(study))
columns_of = ["perplexity_ratio", "removed_norm", "steering_removed"]
effects.groupby("name", sort=False)[columns_of].agg(["mean", "min", "max"]).round(3)

# %% [markdown]
# And the same contrast among the trials that begin off topic in both arms, so that there is something to withdraw:

# %%
shown = [name for name in by_arm["condition"].unique() if name != NONE and not name[-1].isdigit()]
off_topic = study.run.table("begun_off_topic", ablation_tables.begun_off_topic(trials, shown))
off_topic[["condition", "n_pairs", "rate_first", "rate_second", "difference", "ci_low", "ci_high"]].round(3)

# %% [markdown]
# ## What could this run have seen?

# %%
is_primary = (contrasts["condition"] == PRIMARY[0]) & (contrasts["quantity"] == PRIMARY[2])
ablation_tables.what_could_be_seen(trials, contrasts[is_primary].iloc[0]).round(3)

# %% [markdown]
# `n_for_a_quarter`: trials an arm that would show a fall by a quarter, as the paper reports it, four times of five.

# %% [markdown]
# ## Held-out questions
# A second evaluation on questions that no other notebook asks. It stands for itself and is not pooled with the first.

# %%
held_out = study.trials(HELD_OUT)
second = study.run.table("held_out_contrasts", ablation_tables.contrasts(held_out))
display(second[second["rate_first"].notna()][columns].round(3))
line = second[(second["condition"] == PRIMARY[0]) & (second["quantity"] == PRIMARY[2])].iloc[0]
ablation_tables.what_could_be_seen(held_out, line).round(3)

# %% [markdown]
# ## Paper and ours

# %%
study.run.table("beside_paper", ablation_tables.beside_paper(contrasts, place))

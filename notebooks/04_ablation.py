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

from esr_utils import ablation_tables, following_tables, matching, metrics, plots, power, readable, summaries
from esr_utils.ablation import DETECTORS, HELD_OUT, NONE, PRIMARY, Ablation
from esr_utils.catalogue import with_fine_tuned
from esr_utils.detection import committed_detection
from esr_utils.following import Following
from esr_utils.published import cite
from esr_utils.scales import ABLATION, FOLLOWING, TOPIC_STEERING
from esr_utils.topic_steering import TopicSteering

plots.use_style()
pd.set_option("display.max_colwidth", 200)
settings = ABLATION[SCALE]
SUBJECT = with_fine_tuned(PAIR)[-1]  # the corrector, if the pair has one: it has restarts to lose
study = Ablation(SUBJECT, SCALE, settings)

# %% [markdown]
# ## What is ablated
# The detectors and the backtracking latents of notebook 03, less those that are steered in some trial. Ablating with
# the error term kept takes a latent's activation times its decoder direction out of the residual stream, read after
# the steering was added, at the layer for which the SAE was trained.

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
# First-attempt scores in points, rates in per cent of judged trials, with what was ablated at the left.

# %%
by_arm = study.run.table("by_arm", ablation_tables.by_arm(trials))
display(Image(plots.draw_result("ablation_arms", study.run.folder, scale=SCALE), width=760))

# %% [markdown]
# A grey circle is one matched set, or one draw of random directions; the bar is their mean. The contrast with nothing
# ablated is that of the detectors in full less it, trial by trial.

# %%
contrasts = study.run.table("contrasts", ablation_tables.contrasts(trials))
columns = ["condition", "quantity", "n_pairs", "rate_first", "rate_second", "difference", "ci_low", "ci_high"]
names = {"rate_first": "rate, none", "rate_second": "rate, ablated"}
in_full = contrasts[(contrasts["condition"] == DETECTORS) & contrasts["rate_first"].notna()]
readable.table(in_full[[*columns, "mcnemar_p"]], names=names)

# %% [markdown]
# ## Against the matched sets
# The primary contrast beside the same differences of the sets (`sets_mean`, `sets_least`, `sets_most`):

# %%
place = study.run.table("place_among_sets", ablation_tables.place_among_sets(trials))
is_primary = (place["condition"] == PRIMARY[0]) & (place["quantity"] == PRIMARY[2])
readable.table(place[is_primary])

# %% [markdown]
# On the trials that every arm shares. `p` is the share of sets that change the rate at least as much, the arm itself
# counted in. This one line was declared; the other arms and quantities, in `place_among_sets.csv` of the run, are
# exploratory.

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
# Sets matched on how their latents fire are not matched on what the model makes of them. Where an arm makes unsteered
# answers far less likely than the matched sets do (`perplexity_ratio`), it may end restarts because it ends coherent
# text; the arm that comes near them in damage is the one to compare.
#
# And the same contrast among the trials that begin off topic in both arms, so that there is something to withdraw:

# %%
shown = [name for name in by_arm["condition"].unique() if name != NONE and not name[-1].isdigit()]
off_topic = study.run.table("begun_off_topic", ablation_tables.begun_off_topic(trials, shown))
columns_of = ["condition", "n_pairs", "rate_first", "rate_second", "difference", "ci_low", "ci_high"]
readable.table(off_topic[columns_of], names=names)

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
display(readable.table(second[second["rate_first"].notna()][columns], names=names))
line = second[(second["condition"] == PRIMARY[0]) & (second["quantity"] == PRIMARY[2])].iloc[0]
ablation_tables.what_could_be_seen(held_out, line).round(3)

# %% [markdown]
# ## Prefill 2x2
# Does a restart answer the text that is already there, or the steering? The paper's authors begin an unsteered
# response with the first characters of a steered one and see more restarts than under steering. Their beginnings may
# hold a restart already, their continuations have 512 tokens more than a steered response, and they have one cell of
# the four. Here beginnings are cut strictly before the first restart, and crossed with the continuation: both steered
# or not, with the same seeds and the same number of tokens in all.
#
# **Declared before the runs**, on several attempts, for either source of beginnings: steered less unsteered beginning
# where the continuation is unsteered, and steered less unsteered continuation of a steered beginning. ESR and ESR with
# a gain of 20 are shown beside, as secondary.
#
# Beginnings of responses that restarted are chosen by what came after them. So there is a second source: responses
# that withdrew nothing, matched on the first score and cut at the same number of tokens.

# %%
following = Following(SUBJECT, SCALE, FOLLOWING[SCALE]).measure()
following_tables.candidates(following.prefixes(), following.segments()).round(2)

# %% [markdown]
# `fit` ones are used; the others have no room for a continuation (`no_room`), a partner or attempt that is too `short`,
# a `restart` within a beginning, or were not drawn (`spare`). A restarted response is cut where its first attempt ends,
# so its beginning often stops with a sentence, and the unsteered one beside it seldom does: that alone can favour a
# restart. The uncorrected ones are cut anywhere, on both sides.

# %%
cells = following.cells()
metrics.flow(cells, ["source", "prefix", "continuation"])[["source", "prefix", "continuation", "planned", "judged"]]

# %%
by_cell = following.run.table("cells", following_tables.cell_table(cells))
display(Image(plots.draw_result("prefill_cells", following.run.folder, scale=SCALE), width=760))

# %% [markdown]
# Counts are events and trials. An event needs its restart after the beginning, which has none. Bars are 95% intervals
# over latents and questions. Of the declared outcome, with what the intervals rest on (the others are in `cells.csv` of
# the run):

# %%
columns = ["source", "prefix", "continuation", "n_events", "n", "rate", "ci_low", "ci_high"]
by_cell.query("quantity == @following_tables.PRIMARY")[[*columns, "n_latents", "design_effect"]].round(3)

# %% [markdown]
# The declared contrasts, trial by trial: steered less unsteered, of what each line names.

# %%
cell_contrasts = following.run.table("cell_contrasts", following_tables.cell_contrasts(cells))
primary = cell_contrasts[cell_contrasts["quantity"] == following_tables.PRIMARY]
columns = ["source", "contrast", "n_pairs", "rate_second", "rate_first", "difference", "ci_low", "ci_high", "mcnemar_p"]
readable.table(primary[columns], names={"rate_second": "rate, steered", "rate_first": "rate, unsteered"})

# %% [markdown]
# The first contrast above zero would say that the text already written brings restarts without any steering; the
# second below zero, that steering holds back restarts which its own text would bring. If the first is there for
# `restarted` alone, it may be the choice by outcome, or the place of the cut. An interval that holds zero decides
# nothing: its ends say what is still possible. In the committed run the first is above zero for the uncorrected
# beginnings and touches zero for the others, and neither second one is below zero: derailed text alone brings
# restarts, and steering is not seen to hold them back. What is rarer under steering is a restart that ends 20 points
# better, of responses that had restarted.

# %%
following_tables.cells_beside_paper(by_cell)

# %% [markdown]
# The paper's beginnings are of that many characters and were published without intervals; for comparison it quotes
# 2-3% (ESR, under live steering). Model, judge and lengths differ.

# %% [markdown]
# ## Sustained resistance
# After a restart, does the subject stay on topic under steering because it has recovered, or because it now reads text
# on the topic? A response is begun with `own`: its own correction and the start of what follows; `generic`: as many
# tokens of an unsteered answer to the question; `off_topic`: as many of its own first attempt; or `none`. Steering goes
# on in every arm, with the same seeds and the same number of new tokens, and the continuation alone is scored.
#
# **Declared before the runs**: mean score of the continuation, `own` less `generic` (primary), `own` less `off_topic`,
# and `generic` less `none`, by episode and repeat.

# %%
arms = following.arms()
sustained = following.run.table("sustained", following_tables.sustained_table(arms))
sustained_contrasts = following.run.table("sustained_contrasts", following_tables.sustained_contrasts(arms))
display(Image(plots.draw_result("sustained_scores", following.run.folder, scale=SCALE), width=760))

# %%
sustained[["arm", "n_planned", "n", "mean", "ci_low", "ci_high", "median", "sd", "design_effect"]].round(1)

# %%
columns = ["arm", "less", "n_pairs", "n_lost", "mean_second", "mean_first", "difference", "ci_low", "ci_high"]
names = {"mean_second": "mean, arm", "mean_first": "mean, less"}
readable.table(sustained_contrasts[[*columns, "n_latents", "n_questions"]], decimals=1, names=names)

# %% [markdown]
# `off_topic` is the first attempt whatever it scored, and what the gate does not take for a restart can stand in it.
# `own`, `generic` and `off_topic` compare continuations that stand at the same place. In `none` the continuation is
# the opening of a response; an opening may name the question's words more often than what follows it, which the judge
# would reward, so `generic` less `none` also compares places. In the committed run both contrasts of `own` hold zero:
# it is not seen to protect more than other text.

# %%
following_tables.sustained_beside_paper(sustained, sustained_contrasts)

# %% [markdown]
# The paper's three numbers are known from notes on a later version; whether 54.5 is a gain or a level they do not say,
# and no code was found, so arms, lengths and scoring are this notebook's own.

# %% [markdown]
# ## Directions that are not from an SAE
# Is it the SAE's directions that a model resists, or any direction that carries a topic? A later round of the paper
# steered along what sets the title of a Wikipedia article apart. Here: the model is asked about topics that no question
# is about, and the direction of a topic is the residual stream at the last prompt token less its mean over the topics.
# Each is calibrated and measured as the latents of notebook 02 are, on the subject that corrects itself.

# %%
topics = TopicSteering(SUBJECT, SCALE, TOPIC_STEERING[SCALE]).measure()
of_latents = committed_detection(SUBJECT, SCALE)
metrics.flow(topics.trials(), ["subject", "condition", "level"])

# %% [markdown]
# Every planned trial is in this table, with the reason if it was lost.

# %%
calibrated = topics.calibrated()
topics.run.table("calibrated", calibrated)
columns = ["label", "group", "norm", "strength", "multiplier", "verified_score", "verified_sd", "is_in_window"]
calibrated[columns].round(2)

# %% [markdown]
# `strength` is a distance in the residual stream, as for the SAE's directions, which have length 1; `multiplier` is in
# units of the direction's own `norm`, as the paper gives it. A topic that misses the window is kept and flagged. Beside
# the latents:

# %%
arms = {"topics": topics, "SAE latents": of_latents}
found = pd.concat([run.calibration().assign(directions=name) for name, run in arms.items()])
found.groupby("directions")[["strength", "verified_score", "is_in_window"]].agg(["mean", "std", "count"]).round(2)

# %% [markdown]
# Rates at the calibrated strength and without steering. Intervals resample directions and questions.

# %%
both = pd.concat([run.trials().assign(directions=name) for name, run in arms.items()], ignore_index=True)
rates = metrics.rates(both[both["level"].isin([0.0, 1.0])], ["directions", "condition"])
topics.run.table("rates", rates)
summaries.in_words(rates, ["directions", "condition"])

# %% [markdown]
# The two kinds share neither directions nor, trial by trial, questions, so this is a comparison of two groups. A
# difference can also come from first attempts that score differently, so read it beside the calibration above.

# %%
ours = rates.set_index(["directions", "condition", "quantity"])
lines = {
    "ESR rate, directions of topics": (cite("p0380"), ("topics", "steered", "esr")),
    "ESR rate, SAE latents": (cite("p0038"), ("SAE latents", "steered", "esr")),
    "ESR rate, topics, unsteered": ("not published", ("topics", "baseline", "esr")),
}
told = [(name, paper, summaries.told(ours.loc[arm])) for name, (paper, arm) in lines.items()]
told.append(("directions of topics", cite("p0381"), f"{len(calibrated)}"))
pd.DataFrame(told, columns=["quantity", "paper", SUBJECT])

# %% [markdown]
# Model, topics, wording and judge differ. The paper steered along such directions at another layer than along latents.

# %% [markdown]
# ## Ablation: paper and ours
# Read our fall beside its cost above: in full the ablation leaves no coherent text, so this fall says nothing about
# restarts.

# %%
readable.table(study.run.table("beside_paper", ablation_tables.beside_paper(contrasts, place)))

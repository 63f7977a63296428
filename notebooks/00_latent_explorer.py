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
# # 00 Latent explorer
#
# **Question.** What does one answer do when a latent pushes it off its topic: drift, fall apart, or stop and begin
# again? And does it still do so with the off-topic detectors ablated?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*) shows such answers in its Figs 1 and
# 7. The other notebooks count them; this one is for looking at them one by one.
#
# **Cost.** `standard` loads the model and shows committed results; every click then works live: the first words of an
# answer come within a second, three answers of 112 tokens took 13 seconds on one busy CPU core. `quick` makes
# everything live. No GPU, no key: $0.
#
# **You will see** three answers side by side from one batch (unsteered, steered, steered with the detectors ablated),
# their attempts with scores, and what the steered latent does token by token, what the detectors do (latents of
# notebook 03, more active when an answer is read under another question than its own) and the backtracking latents
# (active in sentences that take something back).

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" takes answers of the paper's length

# %%
from dataclasses import asdict, replace
from functools import cache

import pandas as pd
from IPython.display import Image, display

from esr_utils import plots
from esr_utils.catalogue import with_fine_tuned
from esr_utils.config import results_dir
from esr_utils.explorer import kept
from esr_utils.explorer.app import App
from esr_utils.explorer.core import Explorer
from esr_utils.records import open_run
from esr_utils.scales import EXPLORER

plots.use_style()
pd.set_option("display.max_colwidth", 140)
settings = EXPLORER[SCALE]
PAIRS = with_fine_tuned(PAIR)  # the base, and the corrector, which restarts now and then
prepared = kept.load_gallery(PAIRS)
state = replace(prepared[0].state, max_new_tokens=settings.max_new_tokens)
explorer = Explorer(state, pairs=PAIRS)

# %% [markdown]
# ## The explorer
# Choose a prepared state and press *Run*, or set up your own: search latents by a word of their label or by a text on
# which they fire, pick several, give each a strength. A calibrated strength is the one at which notebook 02 found
# first attempts to score about 30 of 100; *relative* is a share of the median norm of the residual stream. A second
# click cancels the first run. Arrow keys move through the tokens of an answer. Without a kernel nothing is shown
# here; `figures/explorer_light.png` is a picture of it.

# %% tags=["explorer"]
App(explorer, gallery=prepared, n_tries=settings.n_tries).root

# %% [markdown]
# The third answer loses a share of the detectors' contribution, set by the slider. Losing all of it broke every steered
# answer we looked at, which says nothing of resistance; most prepared states take a tenth. Another processor may round
# differently and so draw other tokens than those described here.
#
# The prepared states, and what to look for in each. They were picked because they show something (the first two out of
# 32 seeds each, because they restart with and without the processor's newer instructions), and say nothing of how often
# it happens:

# %%
pd.DataFrame({"state": [one.title for one in prepared], "look for": [one.look_for for one in prepared]})

# %% [markdown]
# ## The same without a front end
# `explorer.run(state)` gives what the page shows. The first prepared state:

# %%
answered = replace(state, colour="")  # how the page colours tokens changes no answer
run = open_run(results_dir(PAIRS[-1], "explorer", SCALE), asdict(settings) | {"state": answered.to_string()})
shown = cache(explorer.run)  # made once, if at all
run.frame("tokens", lambda: shown(state).frame())
answers = run.frame("answers", lambda: shown(state).table())
print(state.prompt)
for answer in answers.itertuples():
    print(f"\n--- {answer.arm}: scores {answer.scores}\n{answer.text}")

# %% [markdown]
# Scores are of each attempt, 0 to 100, by the offline judge. The text between two attempts is the restart itself. The
# lanes below: activation of the steered latent, activations summed over the detectors and over the backtracking
# latents, and topicality in nats a token.

# %%
display(Image(plots.draw_result("explorer_traces", run.folder, scale=SCALE), width=700))

# %% [markdown]
# The paper's Fig 7 is such a trace. Shaded: the restart. One answer shows what can happen; notebook 03 has the means
# over all of them, and notebook 04 what ablation changes.

# %% [markdown]
# ## Stronger and weaker
# The same question and seed at several shares of the strength.

# %%
swept = run.frame("sweep", lambda: explorer.sweep(state, levels=settings.levels).table())
swept[["arm", "n_attempts", "scores", "text"]]

# %% [markdown]
# ## How rare is a restart?
# Seeds are tried one after another until the steered answer restarts, or the limit is reached.

# %%
later = replace(state, seed=state.seed + 1)
episode = run.frame("episode", lambda: pd.DataFrame([explorer.find_episode(later, limit=settings.n_tries).told()]))
episode

# %% [markdown]
# `n_tries` counts every answer made, the last one included. An empty seed means that none restarted. One such count
# is no rate; notebook 02 has rates with their intervals.

# %% [markdown]
# ## Finding latents
# By a word of the label, with a filter on concreteness; then by a text on which they fire, strongest first. `density`
# is the share of tokens on which a latent fires; `concreteness` (0 to 100) is high where it fires on one topic only.

# %%
display(explorer.search("ocean", concreteness=(20, 100)).head(5)[["label", "density", "concreteness"]])
explorer.fires_on("The recipe calls for two cups of flour and a pinch of salt.").head(5)

# %% [markdown]
# The card of a latent: its strongest contexts, the tokens that its direction makes likelier (`top`) and less likely
# (`bottom`), and the latents whose directions are nearest.

# %%
card = explorer.card(state.picks[0].latent)
print(f"latent {card.latent}: {card.label}; calibrated at {card.calibrated:g} ({card.relative:.2f} relative)")
for table in card.tables().values():
    display(table.head(5))

# %% [markdown]
# ## Taking a state elsewhere
# A state is one short string, or JSON. It says which pair it belongs to, and loading it under another one is refused.

# %%
print(state.to_string())
assert type(state).from_string(state.to_string(), pairs=PAIRS) == state

# %% [markdown]
# ## Paper and ours

# %%
scores = answers.set_index("arm")["scores"]
pd.DataFrame(
    {
        "what is shown": ["an answer that restarts", "its trace", "the same with the detectors ablated"],
        "paper": ["Fig 1", "Fig 7", "none, only rates (Fig 5)"],
        "ours, scores": [scores["steered"], "figure above", scores["detectors_ablated"]],
        "differs in": [
            "model, judge",
            "sums over our own detectors and backtracking latents",
            "shown answer by answer",
        ],
    }
)

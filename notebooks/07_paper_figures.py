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
# # 07 The paper's figures
#
# **Question.** What was published, figure by figure, and what did this kit find in the same places?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*) makes its claims with figures 2 to
# 21, three tables and, in later versions, five more controls. Most of its curves were published as pictures: what is
# drawn here are the numbers that were told, and where there are none, the words that say so.
#
# **Cost.** Seconds at every scale; no model, no GPU, no key: $0. All of it is drawn from committed files.
#
# **You will see** every figure and table with published numbers (open marks) beside the embedded pair's (filled), the
# places where versions of the paper disagree, and a table of claims with a verdict for each.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # where pictures are written; what they show is the committed results at every scale

# %%
import pandas as pd
from IPython.display import Image, display

from esr_utils import authors_figures, claims, plots, published
from esr_utils.authors import import_authors
from esr_utils.config import DATA
from esr_utils.plots.captions import CAPTIONS

plots.use_style()
pd.set_option("display.max_colwidth", 400)
numbers = published.published()
numbers.groupby("version", sort=False).agg(numbers=("quantity", "size"), first=("source", "first"))

# %% [markdown]
# Every number has its source and version. Those marked `rebuttal` and `v2` came later, some of them at second hand.
# What the kit has measured of its own, table by table (some have the corrector beside the base; what is of the
# corrector alone lies in a folder of its own). `smollm2-135m` in tables and folders is *ours, base* in the figures
# below, `smollm2-135m-corrector` is *ours, corrector*.

# %%
tables = [path.relative_to(DATA / "results") for path in sorted((DATA / "results" / PAIR).glob("*/*.csv"))]
pd.DataFrame({"run": [path.parts[1] for path in tables], "table": [path.stem for path in tables]}).groupby("run").agg(
    ", ".join
)

# %% [markdown]
# ## Who restarts under steering? (Figs 2, 12, 13)
# Published intervals are naive: worked out from rounded rates as if trials were independent, although five share a
# latent. Ours allow for shared latents and questions.

# %%
for name in ("paper_fig2", "paper_fig12", "paper_fig13"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# The embedded base does as the paper's small models do: next to nothing. The corrector was fine-tuned to restart, and
# pays with false alarms without steering. Our scores are lower throughout, since model and judge are others.

# %%
display(Image(plots.draw_paper("paper_fig2_gains", scale=SCALE), width=420))

# %% [markdown]
# ## How does it depend on the strength? (Fig 3)

# %%
display(Image(plots.draw_paper("paper_fig3", scale=SCALE), width=760))

# %% [markdown]
# The paper gives all latents the same strengths, counted from their mean; ours are shares of each latent's own. The
# published peaks of several attempts and ESR rest on a handful of events.

# %% [markdown]
# ## Do meta-prompts help? (Figs 4, 14 to 18)

# %%
for name in ("paper_fig4", "paper_fig14_18"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# With the embedded pair the self-monitoring suffix is not seen to raise restarts; in the corrector they are rarer
# than without a suffix. Against a neutral suffix, which the paper has not and which shows what any suffix does, that
# difference is not settled (notebook 05).

# %% [markdown]
# ## Does ablating the detectors matter? (Figs 5, 19 to 21, Table 2, held-out prompts)

# %%
for name in ("paper_fig5", "paper_fig19", "paper_held_out", "paper_versions"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# The published reduction was larger before version 1 than in it, and on held-out prompts of the rebuttal it lies
# between. There all intervals overlap, and the detectors with a negative d (Cohen's d of Table 2: less active off
# topic than on topic) do no less than the others. Our detectors ablated in full leave no language (perplexity x 957),
# so those rows show nothing about restarts; milder ablations are in Fig 5.

# %%
for name in ("paper_fig20_21", "paper_table2"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# Blue bars are published detectors that are less active off topic than on topic. The sets that the authors made at
# different times overlap only in part:

# %%
sets = published.detectors()[["in_paper_26", "in_separability_25", "in_sum_50"]]
pd.DataFrame({one: {other: int((sets[one] & sets[other]).sum()) for other in sets} for one in sets})

# %% [markdown]
# ## Does fine-tuning on self-corrections help? (Fig 6, Table 3)

# %%
display(Image(plots.draw_paper("paper_fig6", scale=SCALE), width=760))
display(Image(plots.draw_paper("paper_table3", scale=SCALE), width=500))

# %% [markdown]
# ## Where, and judged by whom? (Table 1, Figs 9 to 11, whole responses)

# %%
for name in ("paper_table1", "paper_fig9_11", "paper_whole_response"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# The whole-response judge sees recovery in every model, and most in the three Gemmas, which hardly restart.

# %% [markdown]
# ## Later controls (prefill, matched prefix, other vectors)

# %%
for name in ("paper_prefill", "paper_matched_prefix", "paper_other_vectors"):
    display(Image(plots.draw_paper(name, scale=SCALE), width=760))

# %% [markdown]
# By the published numbers an unsteered model that reads a derailed beginning restarts, so reading is enough; the rate
# under steering beside them is of ESR, another measure. Ours restarts without steering as well, and less often than
# with it. Not shown: whether that is the same behaviour.

# %% [markdown]
# ## Where versions disagree

# %%
pairs = [("p0041", "p0042"), ("p0060", "p0064"), ("p0070", "p0076"), ("p0082", "p0083"), ("p0102", "p0103")]
pairs += [("p0255", "p0279"), ("p0260", "p0280")]
pd.DataFrame([(numbers.loc[one, "quantity"], *map(published.cite, (one, other))) for one, other in pairs]).rename(
    columns={0: "quantity", 1: "one source", 2: "another"}
)

# %% [markdown]
# ## A result file of the authors' code
# Whoever has run their code can draw its result files in the same figures: Fig 2 from the main experiment, 3 from a
# sweep, 4 and 5 from the trials of two files together. What is read here is a small made-up file that shows the format.

# %%
example = import_authors(DATA / "published" / "authors_example.json")
display(example.trials[["latent", "label", "question", "strength", "n_attempts", "first_score", "gain"]].head(4))
display(Image(authors_figures.draw("fig2", example.trials, scale="quick"), width=760))

# %% [markdown]
# Such trials are called the authors' and never ours. A file of 1,000 latents takes seconds; `scale="quick"` writes the
# picture where git does not look.

# %% [markdown]
# ## Claim by claim
# What is ours is read from result files, and the verdict follows from its interval by the claim's rule: of the
# difference trial by trial where the same trials were made in both arms. It says whether the same holds here, with
# another model, judge and questions; not whether the paper is right. A column for each of our subjects (the corrector
# was fine-tuned to restart), and one for what was measured on neither; an empty cell was not measured. How often each
# verdict was given follows.

# %%
table = claims.answers()
claims.by_claim(table)

# %%
table.assign(verdict=table["verdict"].str.split(r"[:,] ", regex=True).str[0])["verdict"].value_counts().to_frame()

# %% [markdown]
# ## Paper and ours
# All figures with their questions stand on one page, `figures/index.html`, which `make figures` writes, with each
# figure as svg and pdf and a few as interactive pages.

# %%
pd.DataFrame([(name, *words) for name, words in CAPTIONS.items() if name in plots.PAPER]).rename(
    columns={0: "figure", 1: "question", 2: "paper, ours, and how they differ"}
)

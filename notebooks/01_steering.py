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
# # 01 Steering
#
# **Question.** What happens to an everyday answer when the decoder direction of an unrelated SAE latent is added to
# the residual stream, and how strong must it be to pull the answer off its topic without wrecking it?
#
# **The paper** (*Endogenous Resistance to Activation Steering in Language Models*, sections 2.1 and 2.2) steers five
# models this way and calibrates the strength of every latent until the first attempt scores a low target. Its numbers
# stand beside ours in the last table.
#
# **Cost.** `standard` shows committed results at once; `quick` runs everything live in a minute or two on two CPU
# cores. No GPU, no key, no judge calls: $0.
#
# **You will see** that the engine does what it says (self-tests), what a strength means, one latent at rising
# strength, a grid of latents, and calibrations with their remaining doubt. The model is small (135 million
# parameters); its numbers are its own, not the paper's.

# %% tags=["parameters"]
PAIR = "smollm2-135m"
SCALE = "standard"  # "quick" runs live; "paper" uses the paper's numbers of prompts and latents

# %%
from dataclasses import replace
from textwrap import shorten

import pandas as pd
from IPython.display import Image, display

from esr_utils import calibration, latents, machine, plots, published, summaries, sweep
from esr_utils.config import results_dir
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.selftest import CHECKS, QUICK_CHECKS, self_test
from esr_utils.models import load_pair
from esr_utils.prompts import load_prompts
from esr_utils.records import open_run
from esr_utils.scales import STEERING
from esr_utils.steering import Sampling
from esr_utils.topicality import Topicality, on_topic_information
from esr_utils.widgets import SteeringPanel

plots.use_style()
pd.set_option("display.max_colwidth", 90)
settings = STEERING[SCALE]
run = open_run(results_dir(PAIR, "steering", SCALE), settings)
sampling = Sampling(max_new_tokens=settings.max_new_tokens)

# %% [markdown]
# ## Which pair?
# `PAIR` above names one of these. `GiB` are its weights, its SAE and the cache of a full batch in bfloat16, and `here`
# says whether that fits this machine.

# %%
machine.describe().set_index("pair")[["model", "layer", "GiB bfloat16", "accept a licence first", "here"]]

# %% [markdown]
# `layer` is where it is steered. The embedded pairs need no GPU, no hub and no licence.

# %% [markdown]
# ## The pair
# A chat model and an SAE at one hook point. The first load converts the weights once; later loads take two seconds.

# %%
pair = load_pair(PAIR)
engine = HFEngine(pair)
labels = latents.load_labels(PAIR)
pd.Series(
    {
        "model": f"{pair.name}: {pair.n_layers} layers, d_model {pair.d_model}",
        "SAE": f"{pair.sae.architecture}, {pair.sae.d_sae} latents, {len(labels)} of them live",
        "steered and read at": f"residual stream after block {pair.steering_layer}",
    },
    name="this pair",
).to_frame()

# %% [markdown]
# ## Does the engine do what it says?
# Each line is a law that holds for any model. The first is the most important: a row (one prompt with its edits, seed
# and length) must not depend on the rows that come and go beside it.

# %%
laws = QUICK_CHECKS if SCALE == "quick" else CHECKS
checks = run.frame("self_test", lambda: self_test(pair, checks=laws))
assert checks["passed"].all(), "a self-test failed: do not trust what follows"
checks

# %% [markdown]
# All must be `True`. A `False` here would make every number below meaningless, so the notebook stops at one.

# %% [markdown]
# ## What a strength means
# A strength multiplies the decoder direction, which has length one here: it is a distance in the residual stream. Part
# of that stream is the same for every token; what tells tokens apart is their distance from the mean token.

# %%
calibration_questions = load_prompts("calibration")
run.frame("resid_norms", lambda: sweep.norms_by_layer(engine, calibration_questions[:12], sampling))
display(Image(plots.draw_result("steering_resid_norms", run.folder, scale=SCALE), width=640))

# %% [markdown]
# Compare strengths with the lower line at the steering layer. *Relative strength*, the share of the median norm, is
# how models are compared; it looks small in a model whose norm is mostly constant.

# %%
norms = pd.read_csv(run.folder / "resid_norms.csv").set_index("layer")
norm, distance = norms.loc[pair.steering_layer, ["norm", "distance_from_mean"]]
pd.DataFrame(
    {
        "strength": settings.strengths,
        "relative strength": [s / norm for s in settings.strengths],
        "share of the distance between texts": [s / distance for s in settings.strengths],
    }
).round(2)

# %% [markdown]
# ## Latents and their labels
# Labels come from the text on which a latent fires hardest. Search them by word. `density` is the share of tokens on
# which a latent fires; `concreteness` (0 to 100) is high where it fires on one topic only.

# %%
latents.search_labels(labels, "jazz").head(8)[["label", "density", "concreteness"]]

# %% [markdown]
# Read one in its contexts before trusting its label: the token at the peak is in brackets.

# %%
LATENT = int(latents.search_labels(labels, "jazz").index[0])
TOPIC = labels.loc[LATENT, "topics"].split("; ")[0]
NAME = f"latent {LATENT} ({TOPIC})"
for context in latents.load_contexts(PAIR, LATENT)[:5]:
    tokens = [f"[{t}]" if i == context["peak"] else t for i, t in enumerate(context["tokens"])]
    print(f"{max(context['acts']):5.1f}  {''.join(tokens)!r}")

# %% [markdown]
# ## One latent at rising strength
# The same questions and seeds at every strength. *Topicality* is how much likelier the answer is given its question
# than given others: 100 for what unsteered answers reach on average, 0 if it says nothing of its question. It needs
# no judge, and says nothing of quality: fluent nonsense on the topic scores high.

# %%
questions = load_prompts("evaluation")[: settings.n_questions]
scorer = Topicality(engine=engine, distractors=calibration_questions)
on_topic = run.frame("on_topic", lambda: pd.DataFrame({"nats": [on_topic_information(scorer, questions, sampling)]}))
scorer = replace(scorer, on_topic=float(on_topic["nats"].iloc[0]))
common = {"strengths": settings.strengths, "questions": questions, "sampling": sampling}
one = run.frame("sweep", lambda: sweep.strength_sweep(engine, scorer, latents=[LATENT], **common).assign(label=NAME))
print(questions[0])
for strength, text in one[one["question"] == questions[0]].set_index("strength")["response"].items():
    print(f"\n--- strength {strength:g}\n{str(text)[:330]}")

# %% [markdown]
# Read down: the answer first holds, then drifts towards the topic of the latent, then falls apart.

# %%
display(Image(plots.draw_result("steering_sweep", run.folder, scale=SCALE), width=640))

# %% [markdown]
# Left, the answers; right, the activation of the steered latent itself, read after the edit: proof that the direction
# arrived. Where does the topic change hands? The same answers, stretch by stretch:

# %%
run.frame("curves", lambda: sweep.topicality_curves(scorer, one, topic=TOPIC).assign(topic=TOPIC))
display(Image(plots.draw_result("steering_topicality_over_tokens", run.folder, scale=SCALE), width=640))

# %% [markdown]
# Above zero, a stretch is likelier as an answer to its question (left) or to a question about the latent's topic
# (right) than as an answer to others.

# %% [markdown]
# ## Which latents are fit to steer with?
# *Unrelated* latents have nothing to do with any question; *concrete* ones have a topic of their own. The paper's
# text and the authors' code state different rules. `paper`: unrelated is what is not among the 100 most active
# latents of any answer, concrete what is at or above the median. `code`: unrelated is what is silent on every token
# of every question, concrete what is rated at least 65 of 100.

# %%
filters = run.frame("filters", lambda: latents.filter_table(engine, labels, calibration_questions, sampling))
counts = filters.drop(columns="latent").sum()
for rule in latents.RULES:
    counts[f"both_{rule}"] = len(latents.survivors(filters, rule))
counts.to_frame(f"latents left of {len(filters)}")

# %% [markdown]
# The code's form takes its rating from a language model. Concreteness here is measured on topics, a harsher scale, so
# that form leaves few or none. The rest of this notebook takes latents that pass the paper's form of both.

# %%
fit = labels.loc[latents.survivors(filters, "paper")]
chosen = latents.sample_latents(fit, settings.n_grid_latents, seed=1)
labels.loc[chosen, ["label", "density", "concreteness"]]

# %% [markdown]
# ## A grid of latents
# One strength does not fit all: where one latent has derailed the answers, another still leaves half their topic.

# %%
short = labels["label"].map(lambda label: shorten(label, 40, placeholder=" …"))
run.frame(
    "grid",
    lambda: sweep.strength_sweep(engine, scorer, latents=chosen, **common).assign(
        label=lambda frame: frame["latent"].map(lambda latent: f"{latent}: {short[latent]}")
    ),
)
display(Image(plots.draw_result("steering_latent_grid", run.folder, scale=SCALE), width=700))

# %% [markdown]
# ## Calibration
# Probabilistic bisection looks for the strength at which the score is 30: each step probes every latent at the median
# of its belief, in one batch, and the belief moves. Fresh answers at the strength found then verify it.

# %%
search = calibration.CalibrationSettings(
    upper=300.0,
    prior_mean=100.0,
    prior_sd=50.0,
    n_steps=settings.n_steps,
    n_samples=settings.n_samples,
    n_verify=settings.n_verify,
    sampling=sampling,
)
calibrated = [LATENT, *chosen][: settings.n_calibrated]
probes = run.frame("probes", lambda: calibration.calibrate(engine, scorer, calibrated, calibration_questions, search))
named = {latent: f"{latent}: {short[latent]}" for latent in calibrated}
with_label = {"label": lambda frame: frame["latent"].map(named)}
table = run.frame("calibration", lambda: calibration.calibration_table(probes, search).assign(**with_label))
run.frame("beliefs", lambda: calibration.belief_table(probes, search).assign(**with_label))
display(Image(plots.draw_result("steering_calibration", run.folder, scale=SCALE), width=700))

# %% [markdown]
# The grey band is the window around the target; a latent outside it is kept and flagged, never dropped silently.
# Below, `strength_p10` and `strength_p90` hold the middle 80% of the belief, and `verified_score` is the mean of the
# fresh answers, whose 95% interval the figure shows.

# %%
table["relative_strength"] = table["strength"] / norm
table[
    ["label", "strength", "relative_strength", "strength_p10", "strength_p90", "verified_score", "is_in_window"]
].round(2)

# %% [markdown]
# ## Try it
# Search a latent, choose a strength and a question. The panel makes the same call as the sweep above.

# %%
SteeringPanel(engine, scorer, labels, max_strength=200.0).view

# %% [markdown]
# ## Paper and ours
# The paper's figures come from its five models and its judges; ours from the embedded model and topicality, with 95%
# intervals over latents and questions.

# %%
unsteered = summaries.told_mean_of(one[one["strength"] == 0], "topicality")
verified = summaries.told_mean_of(probes[probes["stage"] == calibration.VERIFY], "score")
pd.DataFrame(
    {
        "quantity": ["unsteered score", "calibration target", "verified score at the strength found"],
        "paper": [published.cite("p0058"), published.cite("p0017"), published.cite("p0089")],
        "ours, embedded": [
            unsteered,
            f"{search.target:g}",
            f"{verified}, of {len(table)} latents",
        ],
        "differs in": ["judge against topicality, whose scale this mean sets", "-", "judge, model, effort per latent"],
    }
)

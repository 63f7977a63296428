"""What each figure asks and what it shows: the words of the gallery."""

OURS = "ours: the embedded pair, offline judge, committed results"
# name -> the question; what is drawn
CAPTIONS: dict[str, tuple[str, str]] = {
    "paper_fig2": (
        "Fig 2: which models restart when they are steered, and does it help?",
        f"Published rates of five models (one only as a bound, improvement only of one); {OURS} at each latent's "
        "calibrated strength.",
    ),
    "paper_fig2_gains": (
        "Fig 2, left: how far is the last attempt from the first?",
        f"The paper's distribution is a picture without numbers; {OURS}, steered.",
    ),
    "paper_fig3": (
        "Fig 3: how do restarts depend on the strength?",
        f"Three peaks of one model, the only numbers told of its curves; {OURS} at six levels.",
    ),
    "paper_fig4": (
        "Fig 4: does a meta-prompt that asks the model to monitor itself raise restarts?",
        f"Published rates with the meta-prompt (diamonds) and without (circles), as far as they were told; {OURS}.",
    ),
    "paper_fig5": (
        "Fig 5: does ablating the detector latents lower restarts?",
        "Published scores and rates of one model; ours: the corrector of notebook 04.",
    ),
    "paper_fig6": (
        "Fig 6: does the share of self-corrections in fine-tuning matter?",
        "Published whole-response rates of the rebuttal (Fig 6 itself is curves only); ours: three rates and recovery, "
        "at each arm's own strengths.",
    ),
    "paper_fig9_11": (
        "Figs 9 to 11: do judges agree?",
        "Published ranges over pairs of judges, of both versions; ours: two readers of all validation responses, and "
        "the offline judge against them.",
    ),
    "paper_fig12": (
        "Fig 12: are there restarts without steering?",
        f"Published counts of all five models together, of paper and repository; {OURS}.",
    ),
    "paper_fig13": (
        "Fig 13: how good are answers without steering?",
        f"Published mean scores, where paper and repository differ both; {OURS}.",
    ),
    "paper_fig14_18": (
        "Figs 14 to 18: which meta-prompt does what, model by model?",
        f"Published whole-response rates of the rebuttal, the only numbers told of these prompts; {OURS}, with a "
        "neutral suffix that the paper has not.",
    ),
    "paper_fig19": (
        "Fig 19: is ablating random latents any different?",
        "Published scores and rates without ablation, of the detectors and of three random sets pooled; ours: the "
        "corrector with matched sets, of notebook 04.",
    ),
    "paper_fig20_21": (
        "Figs 20 and 21: are the detectors active before a correction?",
        "Three published means and two ratios; Fig 20 is a curve without numbers. Ours: the corrector of notebook 03.",
    ),
    "paper_table1": (
        "Table 1: where are the models steered?",
        "Published layers and depths; ours: the embedded pair.",
    ),
    "paper_table2": (
        "Table 2: how do the 26 detectors differ off and on topic?",
        "Published alone: Cohen's d (off topic less on topic, in standard deviations), mean activations and p of every "
        "latent.",
    ),
    "paper_table3": (
        "Table 3: how was the model fine-tuned?",
        "Published settings; ours: the sweep of notebook 06 and the shipped corrector.",
    ),
    "paper_prefill": (
        "Rebuttal: does an unsteered model restart too, when it reads a derailed beginning?",
        "Published rates by length of the beginning; ours: the corrector of notebook 04.",
    ),
    "paper_matched_prefix": (
        "Version 2: does the model's own correction help more than other on-topic text?",
        "Published numbers at second hand; ours: the corrector of notebook 04.",
    ),
    "paper_other_vectors": (
        "Rebuttal: does ESR need latents of an SAE?",
        "Published ESR under contrastive vectors, beside latents; ours: the corrector under directions of topics and "
        "under latents, of notebook 04.",
    ),
    "paper_held_out": (
        "Rebuttal: does the ablation hold on other prompts, and does the sign of d matter?",
        "Published rates by what was ablated, d being Cohen's d of a latent's activation, off topic less on topic "
        "(Table 2); ours: the corrector of notebook 04. It has no detectors of negative d: the rule keeps none.",
    ),
    "paper_whole_response": (
        "Rebuttal: what does a judge of whole responses see?",
        f"Published rates of five models, where two files differ both, and of the ablation; {OURS}.",
    ),
    "paper_versions": (
        "How large was the effect of the ablation, version by version?",
        "Relative reductions as published and as told before; ours: the corrector of notebook 04.",
    ),
    "explorer_traces": (
        "What happens in one answer?",
        "The first prepared state of notebook 00, token by token: activation of the steered latent, summed activations "
        "of the detectors and of the backtracking latents, topicality in nats; shaded: the restart.",
    ),
    "steering_resid_norms": ("How large is the residual stream?", "Medians over tokens, by layer, of notebook 01."),
    "steering_sweep": (
        "What does rising strength do to one latent's answers?",
        "Every response of notebook 01, with the mean and its 95% interval.",
    ),
    "steering_topicality_over_tokens": (
        "Where in an answer does the topic change?",
        "Means over the responses of notebook 01, by token; above zero, the text is likelier under that question.",
    ),
    "steering_latent_grid": ("Do latents need different strengths?", "Mean topicality of the latents of notebook 01."),
    "steering_calibration": (
        "Which strength meets the target score?",
        "What the search of notebook 01 believes at its end, and scores of fresh answers; grey: the window.",
    ),
    "detection_effort": (
        "What is a thorough calibration worth?",
        "A point is a latent of notebook 02, verified after two efforts; grey: the window around the target.",
    ),
    "detection_first_scores": (
        "Did the calibration meet its target?",
        "First-attempt scores of notebook 02, with steering and without.",
    ),
    "detection_rates": (
        "How often do models restart and recover?",
        "The paper's five models, and ours of notebook 02.",
    ),
    "detection_levels": (
        "How do rates depend on the strength?",
        "Both subjects of notebook 02 at shares of each latent's calibrated strength.",
    ),
    "detection_judges": (
        "Do other judges score alike?",
        "The offline judge against the one by likelihood and against the readers, of notebook 02; scores 0 to 100.",
    ),
    "detection_coverage": (
        "Are the intervals right?",
        "Share of the 95% intervals that hold the true rate, in simulated data of notebook 02.",
    ),
    "discovery_stability": (
        "Which latents are chosen every time?",
        "Latents by share of draws, and what each rule keeps, of notebook 03.",
    ),
    "discovery_levels": (
        "Are detectors active off topic?",
        "Means by stretch of the episodes of notebook 03, and in responses without a restart.",
    ),
    "discovery_traces": (
        "What do latents do around a restart?",
        "Activations summed over each group, means over the episodes of notebook 03, aligned on the restart.",
    ),
    "discovery_episode": (
        "What happens in one episode?",
        "Activations token by token, those of the groups summed, in the episode of notebook 03 that gains most.",
    ),
    "ablation_arms": (
        "Does ablation lower restarts?",
        "Every arm of notebook 04; a ring each for matched sets and for draws of random directions.",
    ),
    "ablation_contrasts": (
        "More than random sets do?",
        "Each arm of notebook 04 less nothing ablated, trial by trial; the random sets are the null.",
    ),
    "prefill_cells": (
        "Is reading enough to restart?",
        "Beginnings and continuations of notebook 04, each steered or not.",
    ),
    "sustained_scores": (
        "Does the own correction help?",
        "Scores of what follows four kinds of beginning, under steering, and their differences, of notebook 04.",
    ),
    "meta_kinds": ("Which meta-prompt does what?", "The suffixes of notebook 05, with steering and without."),
    "meta_beside_paper": (
        "Do meta-prompts do what the paper finds?",
        "Published whole-response rates, and ours of notebook 05.",
    ),
    "tuning_shares": (
        "Does the share of corrections matter?",
        "Rates of notebook 06 along the share of corrections in training, at two strengths and without steering.",
    ),
    "tuning_controls": ("What in a correction does the work?", "Arms of notebook 06 at one share, beside the base."),
    "tuning_beside_paper": (
        "Does recovery rise with the share?",
        "Published whole-response rates, and ours of notebook 06.",
    ),
}
NOT_DRAWN = {
    "Figs 1 and 7": "a worked example and its trace: a response of the authors' model, which is not ours to show",
    "Fig 8": "a diagram of the method",
}

"""From a state to what the engine is asked: the same question and seed with and without the edits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from esr_utils.explorer.state import Pick, State
from esr_utils.meta_prompting import with_suffix
from esr_utils.steering import Ablate, Row, Sampling, Steer

ARMS = ("unsteered", "steered", "detectors_ablated")
DETECTORS = "detectors"


def rows(
    state: State, *, groups: Mapping[str, Sequence[int]], labels: Mapping[int, str], record: Sequence[int] = ()
) -> dict[str, Row]:
    """One row an arm, by name; without detectors or with nothing picked only those that differ.

    Args:
        groups: sets of latents by name; ``detectors`` are ablated in the third arm on top of what is picked.
        labels: of latents, for the meta-prompt that names one.
        record: latents whose activations are kept.
    """
    plain = Row(
        messages=asked(state, labels),
        scope=state.scope,
        seed=state.seed,
        sampling=Sampling(max_new_tokens=state.max_new_tokens, temperature=state.temperature),
        record=tuple(record),
    )
    made = {"unsteered": plain}
    if any(pick.strength or pick.share for pick in state.picks):
        made["steered"] = edited(plain, state.picks)
    if groups.get(DETECTORS) and state.share:
        made["detectors_ablated"] = edited(plain, [*state.picks, *_detectors(state, groups[DETECTORS])])
    return made


def edited(row: Row, picks: Sequence[Pick]) -> Row:
    """``row`` with every pick added and ablated."""
    shares = sorted({pick.share for pick in picks if pick.share})
    return replace(
        row,
        steer=tuple(Steer(latent=pick.latent, strength=pick.strength) for pick in picks if pick.strength),
        ablate=tuple(
            Ablate(latents=tuple(pick.latent for pick in picks if pick.share == share), share=share) for share in shares
        ),
    )


def asked(state: State, labels: Mapping[int, str]) -> str:
    """The question with its meta-prompt. The kind ``label`` names the first latent that is steered along."""
    steered = [pick.latent for pick in state.picks if pick.strength]
    label = labels.get(steered[0], "") if steered else ""
    return with_suffix(state.prompt, state.meta_prompt, wording=state.wording, label=label)


def scaled(state: State, level: float) -> State:
    """The state with every strength multiplied by ``level``."""
    return replace(state, picks=tuple(replace(pick, strength=pick.strength * level) for pick in state.picks))


def _detectors(state: State, detectors: Sequence[int]) -> list[Pick]:
    """Those that are not ablated already: a latent has one share."""
    mine = {pick.latent for pick in state.picks if pick.share}
    return [Pick(latent=int(latent), share=state.share) for latent in detectors if latent not in mine]

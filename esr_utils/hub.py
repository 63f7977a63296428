"""What comes from the model hub: configurations, models and SAEs; whatever goes wrong there is said in one sentence."""

import difflib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch

from esr_utils.catalogue import PairEntry, Shape
from esr_utils.sae import SAE, from_sae_lens, load_sae

if TYPE_CHECKING:
    from transformers import PretrainedConfig

UNSAFE_LOADING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's switch that lets a downloaded file run code


class HubError(RuntimeError):
    """Something could not be had from the hub; the message says what to do."""


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises about ``repo`` into a HubError of one sentence."""
    import httpx2
    import requests
    from huggingface_hub import errors

    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    unreached = (httpx2.TransportError, requests.ConnectionError, requests.Timeout)
    try:
        yield
    except errors.GatedRepoError:
        raise HubError(_gated(repo)) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{repo} is there, and not in the pinned revision; give another one in the catalogue") from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"the hub knows no {repo}, or it is private; correct the name, or set HF_TOKEN to a token that may read it"
        ) from None
    except (*offline, *unreached):
        raise HubError(
            f"{repo} is not in the local cache and the hub could not be reached; connect once (and unset "
            "HF_HUB_OFFLINE), or point HF_HOME to a cache that holds it"
        ) from None
    except errors.EntryNotFoundError as error:
        raise HubError(f"{repo} lacks a file that is needed ({_first_line(error)})") from None
    except OSError as error:
        raise HubError(f"{repo} could not be read ({_first_line(error)})") from None


def _gated(repo: str) -> str:
    return (
        f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, make a token that may read it at "
        "https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def check_access(entry: PairEntry) -> None:
    """Raise a HubError if the model is gated and there is neither a token nor a copy in the cache."""
    from huggingface_hub import get_token, try_to_load_from_cache

    is_cached = isinstance(try_to_load_from_cache(entry.model, "config.json", revision=entry.revision), str)
    if entry.is_gated and not is_cached and get_token() is None:
        raise HubError(_gated(entry.model))


def fetch_config(entry: PairEntry) -> "PretrainedConfig":
    """The model's configuration: a small file, so it is what tells first whether the model can be had."""
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    check_access(entry)
    with explained(entry.model):
        hf_hub_download(entry.model, "config.json", revision=entry.revision)
        return AutoConfig.from_pretrained(entry.model, revision=entry.revision)


def shape_of(config: "PretrainedConfig", sae: SAE) -> Shape:
    """Sizes of a model that the catalogue does not know, from its configuration."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    n_key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Shape(
        n_params=model.num_parameters(),
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        kv_width=n_key_heads * head,
        d_sae=sae.d_sae,
    )


def fetch_sae(entry: PairEntry) -> SAE:
    """The pair's SAE: from its folder, or through sae-lens from one of its releases.

    Raises:
        HubError: unknown to sae-lens, out of reach, or a file that holds more than tensors.
        ValueError: an SAE of a kind that cannot be steered with here.
    """
    if entry.sae_folder:
        return load_sae(entry.sae_folder, name=entry.sae_name)
    _refuse_unsafe_loading()
    repo = _sae_repo(entry.release, entry.sae_id)
    import sae_lens

    with explained(repo):
        try:
            theirs = sae_lens.SAE.from_pretrained(entry.release, entry.sae_id, device="cpu", dtype="float32")
        except pickle.UnpicklingError:
            raise HubError(f"{repo} holds more than tensors and was not opened; do not use this file") from None
    return from_sae_lens(theirs, name=entry.sae_name)


def _refuse_unsafe_loading() -> None:
    """Some releases are pickles, which torch opens without running code unless this variable says otherwise."""
    if os.environ.get(UNSAFE_LOADING):
        raise HubError(f"{UNSAFE_LOADING} is set, so that a downloaded SAE could run code; unset it")


def _sae_repo(release: str, sae_id: str) -> str:
    """Repository of a release; a release or id that sae-lens does not know is met with the nearest it does."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release not in directory:
        if "/" in release:
            return release
        near = difflib.get_close_matches(release, directory, n=3, cutoff=0.3)
        raise HubError(f"sae-lens knows no release {release!r}; the nearest: {', '.join(near) or 'none'}")
    known = directory[release].saes_map
    if sae_id not in known:
        near = difflib.get_close_matches(sae_id, known, n=3, cutoff=0.3) or sorted(known)[:3]
        raise HubError(f"release {release} has no SAE {sae_id!r}; the nearest: {', '.join(near)}")
    return directory[release].repo_id


def generation_config_of(source: object, **options: object) -> object | None:
    """The generation settings published with a model; None if there are none."""
    from transformers import GenerationConfig

    with suppress(OSError):
        return GenerationConfig.from_pretrained(source, **options)
    return None

"""A sparse autoencoder as four tensors: encode chosen latents, read decoder directions, nothing else.

sae-lens trains and publishes SAEs; this module reads what it writes without its ten-second import, and encodes
only the columns that are asked for, which is what a hook on every token can afford.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    import sae_lens

ARCHITECTURES = ("standard", "jumprelu", "topk")


@dataclass(frozen=True, eq=False, kw_only=True)
class SAE:
    """Weights of one SAE, in float32, with the names sae-lens uses.

    ``standard`` is ReLU, ``jumprelu`` zeroes activations at or below ``threshold`` (per latent), ``topk`` keeps
    the ``k`` largest positive activations of a token.
    """

    name: str
    architecture: str
    W_enc: Float[Tensor, "d_model d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_model"]
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int | None = None
    apply_b_dec_to_input: bool = False
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"{self.name}: architecture {self.architecture!r} is not one of {ARCHITECTURES}")
        if self.architecture == "jumprelu" and self.threshold is None:
            raise ValueError(f"{self.name}: a jumprelu SAE needs a threshold")
        if self.architecture == "topk" and self.k is None:
            raise ValueError(f"{self.name}: a topk SAE needs k")

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[0]

    def check_latent(self, latent: int) -> int:
        """``latent`` itself, or a ValueError that names the allowed range."""
        if not 0 <= latent < self.d_sae:
            raise ValueError(
                f"latent {latent} is not in {self.name}: it has {self.d_sae} latents (0 to {self.d_sae - 1})"
            )
        return latent

    def direction(self, latent: int) -> Float[Tensor, " d_model"]:
        """Decoder direction as stored (not normalised): the unit of a raw strength."""
        return self.W_dec[self.check_latent(latent)]

    def encode(
        self, resid: Float[Tensor, "*rows d_model"], latents: Tensor | None = None
    ) -> Float[Tensor, "*rows n_latents"]:
        """Activations of ``latents`` (all if None) for residual-stream vectors.

        ReLU and JumpReLU read only the columns asked for; TopK must see every latent to know which survive.
        """
        if latents is not None and self.architecture != "topk":
            return self.columns(latents).encode(resid)
        resid = resid.to(self.W_enc)
        if self.apply_b_dec_to_input:
            resid = resid - self.b_dec
        acts = (resid @ self.W_enc + self.b_enc).relu()
        if self.architecture == "jumprelu":
            acts = torch.where(acts > self.threshold, acts, 0.0)
        if self.architecture == "topk":
            values, index = acts.topk(self.k, dim=-1)
            acts = torch.zeros_like(acts).scatter_(-1, index, values)
        return acts if latents is None else acts[..., latents]

    def columns(self, latents: Tensor) -> "SAE":
        """A small SAE of these latents alone, in float64: what a hook reads and takes away at every token.

        The width of a batch changes the last bits of a float32 product, and with them, in the end, a token.
        In float64 those bits are far below what the residual stream keeps.
        """
        if self.architecture == "topk":
            raise ValueError(f"{self.name} is a topk SAE: which latents survive depends on all of them")
        picked = {name: getattr(self, name) for name in ("b_enc", "W_dec", "threshold")}
        picked = {name: None if value is None else value[latents].double() for name, value in picked.items()}
        return replace(self, W_enc=self.W_enc[:, latents].double(), b_dec=self.b_dec.double(), **picked)

    def decode(self, acts: Float[Tensor, "*rows d_sae"]) -> Float[Tensor, "*rows d_model"]:
        return acts @ self.W_dec + self.b_dec

    def reader(self, latents: Tensor, device: torch.device | str | None = None) -> Callable[[Tensor], Tensor]:
        """``encode`` for these latents with the columns picked out once, and put on ``device`` if one is named."""
        device = self.W_enc.device if device is None else device
        if self.architecture == "topk":
            whole, latents = self.to(device), latents.to(device)
            return lambda resid: whole.encode(resid, latents).double()
        return self.columns(latents).to(device).encode

    def to(self, device: torch.device | str) -> "SAE":
        moved = {field: value.to(device) if isinstance(value, Tensor) else value for field, value in vars(self).items()}
        return SAE(**moved)


def load_sae(folder: Path | str, *, name: str | None = None) -> SAE:
    """Read an SAE saved by sae-lens (``cfg.json`` and ``sae_weights.safetensors``).

    Raises:
        FileNotFoundError, ValueError: a file is missing, or an option of the SAE is not supported here.
    """
    folder = Path(folder)
    for file in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} holds no {file}: it is not an SAE saved by sae-lens")
    cfg = json.loads((folder / "cfg.json").read_text())
    weights = {key: value.float() for key, value in load_file(folder / "sae_weights.safetensors").items()}
    return _build(cfg, weights, name or folder.name)


def from_sae_lens(sae: "sae_lens.SAE", *, name: str) -> SAE:
    """The same SAE as sae-lens loaded it, from any of its releases.

    Raises:
        ValueError: it reads something else than the residual stream after a block, or an option is not supported.
    """
    hook = str(sae.cfg.metadata.hook_name or "")
    if hook and not hook.endswith("hook_resid_post"):
        raise ValueError(f"{name} reads {hook}, and the kit edits the residual stream after a block (hook_resid_post)")
    weights = {key: value.detach().float() for key, value in sae.state_dict().items()}
    return _build(sae.cfg.to_dict(), weights, name)


def _build(cfg: dict, weights: dict[str, Tensor], name: str) -> SAE:
    if cfg.get("normalize_activations", "none") != "none":
        raise ValueError(f"{name} normalises its input ({cfg['normalize_activations']}); fold the scale in first")
    if cfg.get("rescale_acts_by_decoder_norm"):
        norm = weights["W_dec"].norm(dim=1)
        weights = weights | {
            "W_enc": weights["W_enc"] * norm,
            "b_enc": weights["b_enc"] * norm,
            "W_dec": weights["W_dec"] / norm[:, None],
        }
    hook = str(cfg.get("metadata", {}).get("hook_name") or "")
    layer = [int(part) for part in hook.split(".") if part.isdigit()]
    return SAE(
        name=name,
        architecture=cfg["architecture"],
        k=cfg.get("k"),
        apply_b_dec_to_input=bool(cfg.get("apply_b_dec_to_input", False)),
        layer=layer[0] if layer else None,
        **{key: weights.get(key) for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
    )

"""Catalogue of pairs: what is known of a chat model and its SAE before anything is loaded. Imports no torch."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from esr_utils.config import DATA

GIB = 2**30
DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
BATCH_ROWS, BATCH_TOKENS = 64, 640  # rows of a full batch; a question and 512 tokens of response
QUIRK_MARK, ALL_QUIRKS = "+", "paper"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes from which memory follows. ``kv_width``: of the keys of one token in one layer; its values are as wide."""

    n_params: int
    n_layers: int
    d_model: int
    kv_width: int
    d_sae: int

    def weights_gib(self, dtype: str) -> float:
        return self.n_params * DTYPE_BYTES[dtype] / GIB

    @property
    def sae_gib(self) -> float:
        """The SAE is held in float32, whatever the model is in."""
        return 4 * (2 * self.d_model * self.d_sae + 2 * self.d_sae + self.d_model) / GIB

    def cache_gib(self, dtype: str) -> float:
        """Keys and values of one full batch."""
        return 2 * self.n_layers * self.kv_width * BATCH_ROWS * BATCH_TOKENS * DTYPE_BYTES[dtype] / GIB

    def memory_gib(self, dtype: str) -> float:
        """Weights, SAE and the cache of a full batch; what a pass works with for a moment comes on top."""
        return self.weights_gib(dtype) + self.sae_gib + self.cache_gib(dtype)


@dataclass(frozen=True, kw_only=True)
class StrengthPrior:
    """Where the search for a calibrated strength begins, in raw units of the decoder direction; it starts at 0."""

    mean: float
    sd: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class Quirk:
    """One way in which the authors' runs of a pair differ from this kit's: fields of the entry, and their values.

    ``layer_12`` and ``layer_33`` steer and ablate after that block, with the dictionary of the pair's own layer;
    ``doubled_header`` repeats the header of the answer, ``penalty`` is their repetition penalty, ``ablation_first``
    reads latents before steering. Not among them: weights in 8 bits for the 70B, and Gemma's latents read off the
    MLP's output. The priors of the 70B were theirs at block 33.
    """

    name: str
    changes: tuple[tuple[str, object], ...]


@dataclass(frozen=True, kw_only=True)
class PairEntry:
    """What the catalogue knows of a pair before anything is loaded.

    Attributes:
        model, revision: repository on the hub, and its commit.
        is_embedded: the weights come from the kit's own wheel and not from the hub.
        sae_folder: local SAE; or ``release`` and ``sae_id``, as sae-lens names it.
        steering_layer: None is the layer the SAE was trained on. ``reading_layer``: None is the same one.
        ablation_layer: where latents are ablated; None is the reading layer.
        ablates_first: ablations read the residual stream before steering, whatever they say themselves.
        header_again: tokens after the assistant's header.
        template_options: what the chat template is given, so that a prompt does not depend on the day.
        labels: a table of this kit, or a source of Neuronpedia.
        prior: of the calibration; None if nothing is known, and then it is measured.
        shape: None if it is not known before the model is read.
        base, adapter: a LoRA adapter of the pair called ``base``, merged into its model.
    """

    name: str
    model: str
    revision: str = "main"
    is_embedded: bool = False
    sae_folder: Path | None = None
    release: str | None = None
    sae_id: str | None = None
    steering_layer: int | None = None
    reading_layer: int | None = None
    ablation_layer: int | None = None
    ablates_first: bool = False
    header_again: tuple[str, ...] = ()
    template_options: tuple[tuple[str, str], ...] = ()
    labels: Path | str | None = None
    prior: StrengthPrior | None = None
    shape: Shape | None = None
    dtype: str = "bfloat16"
    repetition_penalty: float = 1.1
    needs_gpu: bool = False
    is_gated: bool = False
    licence: str = ""
    quirks: tuple[Quirk, ...] = ()
    base: str | None = None
    adapter: Path | None = None

    def __post_init__(self) -> None:
        if (self.sae_folder is None) == (self.release is None) or (self.release is None) != (self.sae_id is None):
            raise ValueError(f"{self.name}: an SAE is either a folder, or a release and an id of sae-lens")
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"{self.name}: dtype {self.dtype!r} is not one of {', '.join(DTYPE_BYTES)}")

    @property
    def sae_name(self) -> str:
        return f"{self.release}/{self.sae_id}" if self.release else f"{self.name} SAE"


_EMBEDDED = PairEntry(
    name="smollm2-135m",
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    is_embedded=True,
    sae_folder=DATA / "embedded" / "sae",
    steering_layer=18,
    reading_layer=18,
    labels=DATA / "embedded" / "labels.csv",
    prior=StrengthPrior(mean=65.0, sd=30.0, upper=300.0),
    shape=Shape(n_params=134_515_008, n_layers=30, d_model=576, kv_width=192, d_sae=4096),
    licence="Apache-2.0",
)
_CORRECTOR = replace(
    _EMBEDDED,
    name="smollm2-135m-corrector",
    base="smollm2-135m",
    adapter=DATA / "embedded" / "corrector",
)
_ABLATION_FIRST = Quirk(name="ablation_first", changes=(("ablates_first", True),))
_DOUBLED_HEADER = Quirk(
    name="doubled_header",
    changes=(("header_again", ("<|begin_of_text|>", "<|start_header_id|>", "assistant", "<|end_header_id|>")),),
)


def _penalty(value: float) -> Quirk:
    return Quirk(name="penalty", changes=(("repetition_penalty", value),))


def _gemma_2(size: str, revision: str, layer: int, width: str, shape: Shape, prior: StrengthPrior) -> PairEntry:
    """Gemma 2 with an SAE of the pretrained model, as in the paper. Its penalty was the kit's."""
    return PairEntry(
        name=f"gemma-2-{size}",
        model=f"google/gemma-2-{size}-it",
        revision=revision,
        release=f"gemma-scope-{size}-pt-res-canonical",
        sae_id=f"layer_{layer}/width_{width}/canonical",
        steering_layer=layer,
        labels=f"gemma-2-{size}/{layer}-gemmascope-res-{width}",
        prior=prior,
        shape=shape,
        needs_gpu=size != "2b",
        is_gated=True,
        licence="Gemma terms; SAE CC-BY-4.0",
        quirks=(_ABLATION_FIRST,),
    )


_LLAMA = {
    "template_options": (("date_string", "26 Jul 2024"),),  # what the template says if it is not told
    "needs_gpu": True,
    "is_gated": True,
}
_HUB = (
    PairEntry(
        name="gemma-3-270m",
        model="google/gemma-3-270m-it",
        revision="ac82b4e820549b854eebf28ce6dedaf9fdfa17b3",
        release="gemma-scope-2-270m-it-res",
        sae_id="layer_12_width_16k_l0_medium",
        steering_layer=12,
        labels="gemma-3-270m-it/12-gemmascope-2-res-16k",
        shape=Shape(n_params=268_098_176, n_layers=18, d_model=640, kv_width=256, d_sae=16_384),
        is_gated=True,
        licence="Gemma terms; SAE CC-BY-4.0",
    ),
    _gemma_2(
        "2b",
        "299a8560bedf22ed1c72a8a11e7dce4a7f9f51f8",
        16,
        "16k",
        Shape(n_params=2_614_341_888, n_layers=26, d_model=2304, kv_width=1024, d_sae=16_384),
        StrengthPrior(mean=150.0, sd=75.0, upper=300.0),
    ),
    _gemma_2(
        "9b",
        "11c9b309abf73637e4b6f9a3fa1e92e615547819",
        26,
        "16k",
        Shape(n_params=9_241_705_984, n_layers=42, d_model=3584, kv_width=2048, d_sae=16_384),
        StrengthPrior(mean=280.0, sd=280.0, upper=560.0),
    ),
    _gemma_2(
        "27b",
        "aaf20e6b9f4c0fcf043f6fb2a2068419086d77b0",
        22,
        "131k",
        Shape(n_params=27_227_128_320, n_layers=46, d_model=4608, kv_width=2048, d_sae=131_072),
        StrengthPrior(mean=1500.0, sd=1500.0, upper=5000.0),
    ),
    PairEntry(
        name="llama-3.1-8b",
        model="meta-llama/Llama-3.1-8B-Instruct",
        revision="0e9e39f249a16976918f6564b8830bc894c89659",
        release="goodfire-llama-3.1-8b-instruct",
        sae_id="layer_19",
        steering_layer=19,
        labels="llama3.1-8b-it/19-resid-post-gf",
        prior=StrengthPrior(mean=10.0, sd=10.0, upper=50.0),
        shape=Shape(n_params=8_030_261_248, n_layers=32, d_model=4096, kv_width=1024, d_sae=65_536),
        licence="Llama 3.1 Community Licence",
        quirks=(
            Quirk(name="layer_12", changes=(("steering_layer", 12), ("ablation_layer", 12))),
            _DOUBLED_HEADER,
            _penalty(1.15),
            _ABLATION_FIRST,
        ),
        **_LLAMA,
    ),
    PairEntry(
        name="llama-3.3-70b",
        model="meta-llama/Llama-3.3-70B-Instruct",
        revision="6f6073b423013f6a7d4d9f39144961bfbfbc386b",
        release="goodfire-llama-3.3-70b-instruct",
        sae_id="layer_50",
        steering_layer=50,
        labels="llama3.3-70b-it/50-resid-post-gf",
        prior=StrengthPrior(mean=7.0, sd=5.0, upper=100.0),
        shape=Shape(n_params=70_553_706_496, n_layers=80, d_model=8192, kv_width=1024, d_sae=65_536),
        licence="Llama 3.3 Community Licence",
        quirks=(
            Quirk(name="layer_33", changes=(("steering_layer", 33), ("ablation_layer", 33))),
            _DOUBLED_HEADER,
            _penalty(1.2),
            _ABLATION_FIRST,
        ),
        **_LLAMA,
    ),
)
CATALOGUE = {entry.name: entry for entry in (_EMBEDDED, _CORRECTOR, *_HUB)}


def find_entry(name: str) -> PairEntry:
    """The entry called ``name``; quirks of the authors' runs follow a plus sign.

    ``llama-3.3-70b+layer_33+doubled_header`` has two of them, ``llama-3.3-70b+paper`` all. Such a pair keeps its
    results in a folder of its own.

    Raises:
        ValueError: no such pair (the nearest names are given), or a quirk it does not have.
    """
    plain, *asked = name.split(QUIRK_MARK)
    if plain not in CATALOGUE:
        near = difflib.get_close_matches(plain, CATALOGUE, n=3, cutoff=0.3) or sorted(CATALOGUE)
        raise ValueError(f"unknown pair {plain!r}; the nearest in the catalogue: {', '.join(near)}")
    entry = CATALOGUE[plain]
    known = {quirk.name: quirk for quirk in entry.quirks}
    if asked == [ALL_QUIRKS] and known:
        asked = list(known)
    if unknown := [quirk for quirk in asked if quirk not in known]:
        allowed = ", ".join([*known, ALL_QUIRKS]) if known else "none"
        raise ValueError(f"{plain} has no quirk {unknown[0]!r}; allowed: {allowed}")
    changes = dict(change for quirk in asked for change in known[quirk].changes)
    return replace(entry, name=name, **changes)


def with_fine_tuned(name: str) -> list[str]:
    """The pair called ``name`` and those of the catalogue that were fine-tuned from it."""
    return [find_entry(name).name, *(entry.name for entry in CATALOGUE.values() if entry.base == name)]


def add_entry(name: str, *, model: str, release: str, sae_id: str, **fields: object) -> PairEntry:
    """Put a pair of any SAE that sae-lens knows into the catalogue, until Python ends. ``PAIR = name`` then works.

    ``fields`` are those of ``PairEntry``. Layers are those the SAE was trained on unless given, and what the model
    needs in memory is worked out when its configuration has been read.

    Raises:
        ValueError: the name is taken, or is not one.
    """
    if name in CATALOGUE:
        raise ValueError(f"{name} is in the catalogue already; choose another name")
    if not name or set(name) & {QUIRK_MARK, "/", "\\"}:
        raise ValueError(f"{name!r} cannot name a folder of results; leave out slashes and {QUIRK_MARK!r}")
    CATALOGUE[name] = PairEntry(name=name, model=model, release=release, sae_id=sae_id, **fields)
    return CATALOGUE[name]

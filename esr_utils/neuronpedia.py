"""Labels of published SAEs: Neuronpedia's bulk exports, fetched once, checked, and kept as the kit's label table."""

import json
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.util import Retry

from esr_utils.files import write_whole
from esr_utils.wheels import cache_dir

BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
VARIABLE = "ESR_NEURONPEDIA_URL"
BATCH = re.compile(r"batch-(\d+)\.jsonl\.gz")
MAX_BATCH_BYTES = 2**30  # unpacked; a batch of 256 labels with their embeddings has a few MB
TIMEOUT_S = 30.0
N_TRIES = 4
N_AT_ONCE = 8


class LabelsError(RuntimeError):
    """Labels could not be had or read; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A file of the export, as the bucket lists it."""

    key: str
    n_bytes: int

    @property
    def number(self) -> int:
        return int(BATCH.fullmatch(self.key.rpartition("/")[2])[1])


def neuronpedia_labels(source: str, *, d_sae: int | None = None) -> pd.DataFrame:
    """Labels of a source such as ``gemma-2-2b/16-gemmascope-res-16k``, indexed by latent.

    Only ``label`` is known: density, max_activation and concreteness are NaN, topics are empty. Where a latent has
    several explanations, the first of the export is its label.

    Args:
        d_sae: latents of the SAE, against which the numbers are checked.

    Raises:
        LabelsError: no connection, no such source, or an export that is damaged, incomplete or of another source.
    """
    path = cache_dir() / "labels" / f"{source.replace('/', '__')}.csv"
    if not path.is_file():
        write_whole(path, _fetch(source).to_csv(index=False))
    labels = pd.read_csv(path, keep_default_na=False).set_index("latent")
    if d_sae is not None and not labels.index.max() < d_sae:
        raise LabelsError(f"{source} has a label for latent {labels.index.max()}, and the SAE has {d_sae} latents")
    return labels.assign(density=np.nan, max_activation=np.nan, concreteness=np.nan, topics="")


def _fetch(source: str) -> pd.DataFrame:
    with requests.Session() as session, ThreadPoolExecutor(N_AT_ONCE) as pool:
        again = Retry(total=N_TRIES - 1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=N_AT_ONCE))
        batches = _listed(session, source)
        read = pool.map(lambda batch: _labels_in(_get(session, batch.key), batch, source), batches)
        told = list(tqdm(read, total=len(batches), desc=f"labels of {source}"))
    labels: dict[int, str] = {}
    for latent, label in (pair for batch in told for pair in batch):
        labels.setdefault(latent, label)
    if not labels:
        raise LabelsError(f"the export of {source} holds no labels")
    return pd.DataFrame(sorted(labels.items()), columns=["latent", "label"])


def _listed(session: requests.Session, source: str) -> list[Batch]:
    """The batches of the export, in their order; a gap in their numbers is an error."""
    prefix, batches, more = f"v1/{source}/explanations/", [], {}
    while True:
        answer = _get(session, "", {"list-type": "2", "prefix": prefix, **more})
        try:
            tree = ElementTree.fromstring(answer)
        except ElementTree.ParseError:
            raise LabelsError(f"{_base()} answered with something else than a listing; check {VARIABLE}") from None
        fields = [{child.tag.rpartition("}")[2]: child.text for child in item} for item in tree.iter() if len(item)]
        found = [Batch(key=field["Key"], n_bytes=int(field["Size"])) for field in fields if "Key" in field]
        batches += [batch for batch in found if BATCH.fullmatch(batch.key.removeprefix(prefix))]
        token = next((field.get("NextContinuationToken") for field in fields if "Name" in field), None)
        if not token:
            break
        more = {"continuation-token": token}
    batches.sort(key=lambda batch: batch.number)
    if not batches:
        raise LabelsError(f"Neuronpedia's export has no labels of {source}; give the pair another source, or a table")
    if [batch.number for batch in batches] != list(range(len(batches))):
        raise LabelsError(f"the export of {source} lacks some of its batches; try again later")
    return batches


def _base() -> str:
    return (os.environ.get(VARIABLE) or BUCKET).rstrip("/")


def _get(session: requests.Session, key: str, query: dict[str, str] | None = None) -> bytes:
    try:
        answer = session.get(f"{_base()}/{key}", params=query, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except requests.HTTPError as error:
        raise LabelsError(f"{_base()} refuses {key or 'to list its files'} ({error.response.status_code})") from None
    except requests.RequestException as error:
        raise LabelsError(
            f"{_base()} could not be reached for the labels ({type(error).__name__}); connect once, or set {VARIABLE} "
            "to the address of a copy"
        ) from None
    return answer.content


def _labels_in(data: bytes, batch: Batch, source: str) -> list[tuple[int, str]]:
    """Latent and label of each line of a batch; its size, packing and source are checked."""
    if len(data) != batch.n_bytes:
        raise LabelsError(f"{batch.key} came with {len(data):,} of {batch.n_bytes:,} bytes; try again")
    try:
        return [_label_of(json.loads(line), source) for line in _unpacked(data).splitlines() if line.strip()]
    except (EOFError, OSError, zlib.error, KeyError, TypeError, ValueError) as error:
        raise LabelsError(f"{batch.key} is damaged or of another format ({error}); nothing of it was kept") from None


def _unpacked(data: bytes) -> bytes:
    packer = zlib.decompressobj(wbits=31)  # gzip, with a limit on what it may become
    text = packer.decompress(data, MAX_BATCH_BYTES)
    if packer.unconsumed_tail or not packer.eof:
        raise ValueError("its packed data are cut off or far too long")
    return text


def _label_of(line: dict, source: str) -> tuple[int, str]:
    found = f"{line['modelId']}/{line['layer']}"
    if found != source:
        raise ValueError(f"it belongs to {found}")
    return int(line["index"]), " ".join(str(line["description"]).split())

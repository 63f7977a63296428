"""Names of remote judges, for files: judges that are asked differently are named differently."""

import re
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from esr_utils.judges.rubric import FAITHFUL, STRUCTURED, Rubric

MAX_TOKENS = 4096  # of a reply, unless told otherwise
DATE = "-20251001"  # of the default Claude; left out of names. Other dates stay: snapshots must not share a file
# How a name tells what a reply is made with, where it is not the value given here.
SAMPLING = {"temperature": ("t", 0.0), "max_tokens": ("tokens", MAX_TOKENS), "reasoning_effort": ("effort-", None)}


def judge_name(place: str, rubric: Rubric, sampling: Mapping[str, object], *, repeat: int) -> str:
    """``sampling``: the model, and what of ``SAMPLING`` the judge sends. Holds a-z, 0-9, dots and hyphens alone."""
    parts = [place, str(sampling["model"]).removesuffix(DATE), rubric.form]
    if rubric not in (STRUCTURED, FAITHFUL):
        parts.append(sha256(f"{rubric.system}{rubric.template}".encode()).hexdigest()[:6])
    for setting, (word, usual) in SAMPLING.items():
        value = sampling.get(setting, usual)
        if value != usual:
            parts.append(f"{word}{value}")
    if repeat:
        parts.append(f"repeat{repeat}")
    return re.sub(r"(?:[^a-z0-9.]|\.{2,})+", "-", "-".join(parts).lower()).strip("-.")


def host_and_port(base_url: str) -> str:
    """The port is left out where it is that of https.

    Raises:
        ValueError: the port is not a number from 0 to 65535.
    """
    url = urlsplit(base_url)
    port = url.port or {"http": 80}.get(url.scheme, 443)
    return (url.hostname or "") + (f"-{port}" if port != 443 else "")

"""What is checked of NDIF, or of an own server of the same kind, before any row is sent. Each failure is one sentence.

``ESR_NNSIGHT`` names the server: ``ndif``, or the address of an own one. Without it nothing here is used.
"""

import os
import platform
import warnings
from dataclasses import dataclass
from importlib.metadata import version

from esr_utils.engines.nnsight import load_before_nnsight

ADDRESS_VARIABLE, KEY_VARIABLE = "ESR_NNSIGHT", "NDIF_API_KEY"
MUST_AGREE = {"nnsight": 2, "transformers": 1}  # package -> leading parts of the version that must be the same
TASK, RUNNING = "text-generation", "RUNNING"
SECONDS = 30.0


class NDIFError(RuntimeError):
    """NDIF, or an own server, cannot be used or failed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server that was checked: where it is, and under which key it runs the model."""

    host: str
    api_key: str
    model_key: str


def find_service(address: str, repo: str, revision: str = "main") -> Service:
    """The server at ``address`` (``ndif``, or http://...) that runs the model ``repo``; every check is made here.

    Raises:
        NDIFError: no key, no such server, the model is not up, or versions do not go together.
    """
    load_before_nnsight()
    from nnsight.schema.config import CONFIG

    host = CONFIG.API.HOST if address == "ndif" else address.rstrip("/")
    if not host.startswith(("http://", "https://")):
        raise NDIFError(
            f"{ADDRESS_VARIABLE}={address} is neither ndif nor an address that starts with http:// or https://"
        )
    api_key = os.environ.get(KEY_VARIABLE, "")
    if address == "ndif" and not api_key:
        raise NDIFError(
            f"{KEY_VARIABLE} is not set; get a key at https://login.ndif.us and put it into the environment"
        )
    deployments = _get(host, "/status").get("deployments", {})
    model_key = _running(deployments, host, repo, revision)
    check_versions(_get(host, "/env"), host)
    return Service(host=host, api_key=api_key, model_key=model_key)


def _get(host: str, route: str) -> dict:
    import httpx

    try:
        reply = httpx.get(f"{host}{route}", timeout=SECONDS)
        if reply.status_code == httpx.codes.NOT_FOUND and _is_nnsight_serve(host):
            raise NDIFError(
                f"{host} is an nnsight-serve, which runs vLLM's modules and needs vLLM in this process as well; "
                "for a vLLM server set ESR_SERVERS, and for NDIF's own server give its address"
            )
        return reply.raise_for_status().json()
    except httpx.HTTPStatusError as error:
        raise NDIFError(f"{host}{route} answered {error.response.status_code}; try again later") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NDIFError(f"{host} cannot be reached ({error}); check the address and the network") from None
    except ValueError:
        raise NDIFError(f"{host}{route} did not answer in JSON; is it an NDIF server?") from None


def _is_nnsight_serve(host: str) -> bool:
    import httpx

    return httpx.get(f"{host}/health", timeout=SECONDS).status_code in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE)


def _running(deployments: dict, host: str, repo: str, revision: str) -> str:
    """The key of the deployment that answers for ``repo``."""
    ours = {key: d for key, d in deployments.items() if d.get("repo_id") == repo and d.get("task") in (None, TASK)}
    up = {key: d for key, d in ours.items() if d.get("application_state") == RUNNING}
    revisions = {key: d.get("revision") or "main" for key, d in up.items()}
    if up:
        key = next((key for key, runs in revisions.items() if runs == revision), next(iter(up)))
        if revisions[key] != revision:
            told = f"{host} runs {repo} at revision {revisions[key]}, and the pair is pinned to {revision}"
            warnings.warn(f"{told}; its weights may have changed since", stacklevel=4)
        return up[key].get("model_key") or key
    if ours:
        states = ", ".join(sorted({str(d.get("application_state")) for d in ours.values()}))
        raise NDIFError(f"{repo} is not up on {host} (it is {states}); wait until it is {RUNNING}, or ask for it")
    names = sorted({str(d.get("repo_id")) for d in deployments.values() if d.get("application_state") == RUNNING})
    raise NDIFError(f"{repo} is not on {host}; it runs {', '.join(names) or 'no model'}")


def check_versions(env: dict, host: str) -> None:
    """Raise if nnsight (major.minor) or transformers (major) differ from the server's; warn of lesser differences.

    nnsight sends traces in its own format, and a block's output has another form in each major transformers.
    """
    packages = env.get("packages", {})
    for package, n_parts in MUST_AGREE.items():
        ours, theirs = version(package), packages.get(package)
        if theirs and ours.split(".")[:n_parts] != theirs.split(".")[:n_parts]:
            raise NDIFError(f"{package} is {ours} here and {theirs} on {host}; install {package}=={theirs} here")
    differing = [
        f"{name} {ours} here, {theirs} there"
        for name, ours, theirs in (
            ("python", platform.python_version(), env.get("python_version", "").split(" ")[0]),
            *((name, version(name), packages.get(name)) for name in (*MUST_AGREE, "torch")),
        )
        if theirs and ours != theirs
    ]
    if differing:
        warnings.warn(f"versions differ from {host}: {'; '.join(differing)}", stacklevel=3)

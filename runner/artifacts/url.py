"""Fetching a file whose SHA-256 is known beforehand."""

from __future__ import annotations

from runner.artifacts.cache import Tell
from runner.errors import HostError, HostIoError
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import http.client

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def download(url: str, sha256: str, path: str, tell: Tell) -> None:
    """Write what ``url`` gives to ``path``, provided that it is what ``sha256`` (hex) says.

    Only https and file: the hash would catch a changed file, but not who learns what is fetched.
    """
    import hashlib
    import urllib.error
    import urllib.request

    if not url.startswith(("https://", "file:///")):
        raise HostError(f"{url} is not fetched: only https:// (and file:///) is", hint="use https://")
    tell(f"fetching {url}")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(path, "wb") as file:  # noqa: S310 - checked
            _check_scheme(url, answer)
            while piece := answer.read(_CHUNK):
                digest.update(piece)
                file.write(piece)
    except urllib.error.HTTPError as error:
        raise HostError(f"{url} cannot be fetched: the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        why = str(getattr(error.reason, "strerror", None) or error.reason)
        raise HostError(f"{url} cannot be fetched: {why}", hint="is there a network?") from error
    except TimeoutError as error:
        raise HostError(f"{url} cannot be fetched: no answer for {_TIMEOUT} s") from error
    except OSError as error:
        raise HostIoError(f"{url} cannot be kept: {error.strerror or error}") from error
    if digest.hexdigest() != sha256.lower():
        raise HostError(
            f"{url} has SHA-256 {digest.hexdigest()}, the definition says {sha256.lower()}",
            hint="the file there has changed, or the definition's sha256 is of another file",
        )


def _check_scheme(url: str, answer: http.client.HTTPResponse) -> None:
    if not answer.geturl().startswith(("https://", "file:///")):
        raise HostError(f"{url} leads to {answer.geturl()}, which is not https")

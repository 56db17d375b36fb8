"""Who may call: API keys, the origins of web pages, and the host names that the server answers to."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ..errors import AizuchiError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY_HEADERS = ("x-api-key", "api-key", "kyutai-api-key")
_KEY_QUERIES = ("api_key", "auth_id", "worker_auth_id")
_KEY_PROTOCOL = "openai-insecure-api-key."  # how OpenAI's clients pass a key from a browser


class Keys:
    """API keys, kept as digests; no keys means that everybody may call."""

    def __init__(self, keys: Iterable[str] = ()):
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Keys:
        """A file with one key a line; empty lines and lines that begin with # are left out.

        Raises:
            AizuchiError: the file can't be read or holds no key, or a key is shorter than 16 characters.
        """
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise AizuchiError(f"the keys in {path} can't be read: {error}") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise AizuchiError(f"{path} holds no key: write one a line")
        for number, key in enumerate(keys, 1):
            if not re.fullmatch(r"[A-Za-z0-9._~+-]{16,}", key):
                raise AizuchiError(
                    f"key {number} in {path} must be at least 16 letters, digits or . _ ~ + - (such as "
                    "'openssl rand -hex 24' makes)"
                )
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, key: str | None) -> bool:
        """Whether this key is known; in a time that does not depend on the keys."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def presented_key(connection: HTTPConnection) -> str | None:
    """The key that a request or a WebSocket brings: in a header, the query, or a subprotocol."""
    headers = connection.headers
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    for name in _KEY_HEADERS:
        if name in headers:
            return headers[name]
    for name in _KEY_QUERIES:
        if name in connection.query_params:
            return connection.query_params[name]
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(_KEY_PROTOCOL):
            return protocol.strip()[len(_KEY_PROTOCOL) :]
    return None


class Doors:
    """Decides whether a connection is let in.

    Args:
        keys: API keys. hosts: names that the server answers to, None for any. A page on the same machine as a
            private server could otherwise reach it under a name of its own (DNS rebinding).
        origins: origins of pages on other hosts that may connect, "*" for any.
    """

    def __init__(self, keys: Keys, hosts: Iterable[str] | None = LOOPBACK, origins: Iterable[str] = ()):
        self.keys = keys
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.origins = {origin.rstrip("/").lower() for origin in origins}

    def host_allowed(self, connection: HTTPConnection) -> bool:
        """Whether the Host header names this server."""
        return self.hosts is None or hostname(connection.headers.get("host", "")) in self.hosts

    def origin_allowed(self, connection: HTTPConnection) -> bool:
        """Whether the page that connects may: the server's own, a listed one, or no page at all."""
        origin = connection.headers.get("origin")
        if origin is None or "*" in self.origins or origin.lower().rstrip("/") in self.origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower() != ""
        except ValueError:
            return False

    def refusal(self, connection: HTTPConnection) -> tuple[int, str, str] | None:
        """(status, code, message) of a connection that is not let in; None for one that is."""
        if not self.host_allowed(connection):
            return 421, "host", "this server does not answer to that name; see --allow-host"
        if not self.origin_allowed(connection):
            return 403, "origin", "pages of that origin may not connect; see --allow-origin"
        if not self.keys.allow(presented_key(connection)):
            return 401, "key", "an API key is needed: send it as 'Authorization: Bearer KEY'"
        return None


def hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""

"""Where the API server is and who we are to it: a Pod's ServiceAccount, or a kubeconfig.

Owns credentials and their renewal for both clients: kubernetes.aio (calls) and kopf (watches).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from kubernetes.aio import client, config

from lq_operator.core.result import Rejected, Transient

if TYPE_CHECKING:
    import kopf

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


TOKEN_LOOK_S = 1.0
"""Between two looks at the token's file. The kubelet replaces it minutes to hours before the old token ends."""


class TokenFile:
    """A bearer token in a file that the kubelet replaces: read again whenever the file changes."""

    def __init__(self, path: Path, mono_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._mono_s = mono_s
        self._looked_s = -TOKEN_LOOK_S
        self._stamp: tuple[int, int] = (0, 0)
        self._token = ""

    def read(self) -> str:
        """The current token, at most TOKEN_LOOK_S old; the last good one while the file is being replaced.

        Transient when there never was one.
        """
        now_s = self._mono_s()
        if self._token and now_s - self._looked_s < TOKEN_LOOK_S:
            return self._token
        self._looked_s = now_s
        try:
            info = self._path.stat()
            stamp = (info.st_mtime_ns, info.st_ino)
            if stamp != self._stamp:
                token = self._path.read_text().strip()
                if token:
                    self._token, self._stamp = token, stamp
        except OSError as error:
            if not self._token:
                raise Transient(f"cannot read the ServiceAccount token {self._path}: {error}") from error
        if not self._token:
            raise Transient(f"the ServiceAccount token {self._path} is empty")
        return self._token


@dataclass(slots=True)
class Endpoint:
    """One API server as one identity. Build it with in_cluster(), from_kubeconfig() or discover_endpoint()."""

    configuration: client.Configuration
    token_file: TokenFile | None = None
    namespace: str = "default"
    server: str = field(init=False)

    def __post_init__(self) -> None:
        self.server = str(self.configuration.host).rstrip("/")

    async def authorization(self) -> str | None:
        """The Authorization header to send now; None where a client certificate speaks for us."""
        if self.token_file is not None:
            return f"Bearer {self.token_file.read()}"
        value = await self.configuration.get_api_key_with_prefix("BearerToken")
        return str(value) if value else None

    async def kopf_connection(self) -> kopf.ConnectionInfo:
        """The same identity in kopf's words; asked again by kopf after each 401."""
        import kopf  # here, because a command line that never watches should not wait for it

        scheme, _, token = (await self.authorization() or "").partition(" ")
        configuration = self.configuration
        return kopf.ConnectionInfo(
            server=self.server,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme.capitalize() or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            proxy_url=configuration.proxy,
        )


def in_cluster(environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT_DIR) -> Endpoint:
    """The identity of the Pod we run in. Rejected when this is no Pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise Rejected("KUBERNETES_SERVICE_HOST/PORT are not set: not in a Pod; give a kubeconfig instead")
    authority = directory / "ca.crt"
    if not authority.is_file():
        raise Rejected(f"{authority} is missing: mount the ServiceAccount token (automountServiceAccountToken)")
    configuration = client.Configuration(
        host=f"https://{f'[{host}]' if ':' in host else host}:{port}", ssl_ca_cert=str(authority)
    )
    namespace = directory / "namespace"
    token_file = TokenFile(directory / "token")
    # The generated client (Leases) asks the configuration, and only where a key is there already.
    configuration.api_key["BearerToken"] = ""
    hook = lambda asked: asked.api_key.update(BearerToken=f"Bearer {token_file.read()}")  # noqa: E731
    setattr(configuration, "refresh_api_key_hook", hook)  # noqa: B010 - the stub says None, the class calls it
    return Endpoint(
        configuration=configuration,
        token_file=token_file,
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
    )


async def from_kubeconfig(path: Path | str | None = None, context: str | None = None) -> Endpoint:
    """A context of a kubeconfig (default: $KUBECONFIG, then ~/.kube/config). Rejected when it cannot be used."""
    configuration = client.Configuration()
    try:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path) if path else None,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (config.ConfigException, OSError, yaml.YAMLError, TypeError, ValueError) as error:
        # TypeError, ValueError: how the loader meets a file that is YAML but no kubeconfig.
        raise Rejected(f"cannot use kubeconfig {path or 'from the environment'}: {error}") from error
    return Endpoint(configuration=configuration)


async def discover_endpoint(kubeconfig: Path | str | None = None, context: str | None = None) -> Endpoint:
    """A given kubeconfig wins; otherwise the Pod's ServiceAccount; otherwise the default kubeconfig."""
    if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    return await from_kubeconfig(kubeconfig, context)

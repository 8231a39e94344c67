"""What is particular to one backend: permissions and hand edits on Kubernetes; TLS, endpoints and restarts on etcd."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import ipaddress
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import kubernetes.aio.client as kube
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.contract.coordination.coordination_parts import (
    ADMIN_TOKEN,
    NOBODY_TOKEN,
    Site,
    api_client,
    etcd_argv,
    etcd_server,
    free_port,
    opened,
    port_open,
    running,
    wait_until,
)

from lq_operator.adapters.coordination.etcd import EtcdLeases, EtcdTls
from lq_operator.adapters.coordination.lease import Timing
from lq_operator.core.result import Rejected, Transient

NAME = "hosts-0"

# ---------------------------------------------------------------------------------------------------- Kubernetes


async def test_missing_permission_is_said_with_the_remedy(kube_site: Site) -> None:
    async with opened(dataclasses.replace(kube_site, token=NOBODY_TOKEN)) as nobody:
        with pytest.raises(Rejected, match=r"Role needs get, list, create and patch on leases"):
            await nobody.acquire(NAME)


async def test_a_missing_namespace_is_waited_for(kube_site: Site) -> None:
    async with opened(dataclasses.replace(kube_site, space=f"{kube_site.space}-not-there")) as a:
        with pytest.raises(Transient, match="does not exist"):
            await a._try_acquire(NAME, 0)


async def test_the_lease_reads_well_for_people(kube_site: Site) -> None:
    async with opened(kube_site, "pod-a") as a, api_client(kube_site.url, ADMIN_TOKEN) as client:
        grant = await a.renew(await a.acquire(NAME))
        api = kube.CoordinationV1Api(client)
        lease = await api.read_namespaced_lease(f"lq-{NAME}", kube_site.space)
        assert lease.metadata.annotations == {"limiquantix.io/term": "1", "limiquantix.io/beat": "2"}
        assert lease.spec.holder_identity == grant.holder
        assert lease.spec.lease_duration_seconds == kube_site.ttl_s
        assert lease.spec.renew_time > lease.spec.acquire_time
        terms = await api.read_namespaced_lease("lq-terms", kube_site.space)
        assert terms.metadata.annotations == {"limiquantix.io/term": "1"}


async def _edit(site: Site, lease: str, body: Any) -> None:
    async with api_client(site.url, ADMIN_TOKEN) as client:
        await kube.CoordinationV1Api(client).patch_namespaced_lease(
            lease, site.space, body, _content_type="application/merge-patch+json"
        )


async def test_others_labels_and_annotations_stay(kube_site: Site) -> None:
    theirs = {"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}}
    async with opened(kube_site) as a, opened(kube_site) as b, api_client(kube_site.url, ADMIN_TOKEN) as client:
        grant = await a.acquire(NAME)
        await _edit(kube_site, f"lq-{NAME}", theirs)
        await _edit(kube_site, "lq-terms", theirs)
        await a.release(await a.renew(grant))
        await b.acquire(NAME)
        for lease in (f"lq-{NAME}", "lq-terms"):
            seen = await kube.CoordinationV1Api(client).read_namespaced_lease(lease, kube_site.space)
            assert seen.metadata.labels["team"] == "x"
            assert seen.metadata.annotations["note"] == "y"


async def test_taking_our_label_or_numbers_off_stops_nobody(kube_site: Site) -> None:
    async with opened(kube_site) as a, opened(kube_site) as b:
        grant = await a.acquire(NAME, above_term=5)
        for lease in (f"lq-{NAME}", "lq-terms"):
            await _edit(kube_site, lease, {"metadata": {"labels": None}})
        second = await b.acquire(NAME)
        assert second.term > grant.term
        await _edit(kube_site, f"lq-{NAME}", {"metadata": {"annotations": {"limiquantix.io/term": "many"}}})
        await _edit(kube_site, "lq-terms", {"metadata": {"annotations": {"limiquantix.io/beat": "-3"}}})
        third = await a.acquire(NAME)
        assert third.term > second.term


async def test_a_label_set_by_somebody_is_no_sign_of_life(kube_site: Site) -> None:
    async with opened(kube_site) as a, opened(kube_site) as b:
        await a.acquire(NAME)
        waiting = asyncio.create_task(b.acquire(NAME))
        for n in range(100):
            if waiting.done():
                break
            await _edit(kube_site, f"lq-{NAME}", {"metadata": {"labels": {"touched": str(n)}}})
            await asyncio.sleep(0.1)
        await asyncio.wait_for(waiting, 1)


async def test_the_longer_of_two_lease_times_counts(kube_site: Site) -> None:
    patient = dataclasses.replace(kube_site, ttl_s=2 * kube_site.ttl_s)
    async with opened(patient) as a, opened(kube_site) as b:
        grant = await a.acquire(NAME)
        await b.acquire(NAME)
        assert asyncio.get_running_loop().time() > grant.expires_mono_s


# ---------------------------------------------------------------------------------------------------------- etcd


def test_stubs_load_without_warnings_and_without_etcd3s_client_in_use() -> None:
    code = "from lq_operator.adapters.coordination import etcd; import threading; assert threading.active_count() == 1"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "url", ["127.0.0.1:2379", "https://etcd:2379", "http://u:p@etcd:2379", "http://etcd/path", "ftp://etcd"]
)
def test_endpoints_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="etcd endpoint"):
        EtcdLeases([url], "/lq/x", "pod")


async def test_a_server_killed_and_started_again_keeps_the_lease_and_the_terms(
    etcd_binary: Path, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    argv = etcd_argv(etcd_binary, tmp_path / "data", port)
    leases = EtcdLeases([f"http://127.0.0.1:{port}"], "/lq/x", "pod", Timing(30))
    with running(argv, log):
        await asyncio.to_thread(wait_until, "etcd", lambda: port_open(port), log)
        grant = await leases.renew(await leases.acquire(NAME, above_term=8))
    with pytest.raises(Transient):
        await leases.renew(grant)
    with running(argv, log):
        await asyncio.to_thread(wait_until, "etcd", lambda: port_open(port), log)
        renewed = await leases.renew(grant)
        assert renewed.term == grant.term == 9
        assert renewed.beat > grant.beat
        await leases.release(renewed)
        assert (await leases.acquire(NAME)).term == 10
        await leases.close()


async def test_the_next_endpoint_is_used_when_one_is_dead_or_hangs(etcd_binary: Path, tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    hanging = await asyncio.start_server(swallow, "127.0.0.1", 0)
    hung = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}"
    with etcd_server(etcd_binary, tmp_path / "e") as url:
        leases = EtcdLeases([f"http://127.0.0.1:{free_port()}", hung, url], "/lq/x", "pod", Timing(6))
        grant = await asyncio.wait_for(leases.acquire(NAME), 20)
        assert (await leases.renew(grant)).beat == 2
        await leases.close()
    hanging.close()


async def test_others_keys_under_the_prefix_do_not_matter(etcd_url: str) -> None:
    prefix = f"/lq/{uuid.uuid4().hex}"
    async with opened(Site("etcd", etcd_url, f"{prefix}/inner")) as inner, opened(Site("etcd", etcd_url, prefix)) as a:
        await inner.acquire(NAME, above_term=100)
        assert (await a.acquire(NAME)).term == 1
        assert await a.highest_term() == (1, 1)


def _certificate(
    folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


async def test_mutual_tls(etcd_binary: Path, tmp_path: Path) -> None:
    ca = _certificate(tmp_path, "ca", None)
    _certificate(tmp_path, "server", ca)
    _certificate(tmp_path, "client", ca)
    _certificate(tmp_path, "stranger", _certificate(tmp_path, "other-ca", None))
    port, log = free_port(), tmp_path / "log"
    files = {"cert-file": "server.pem", "key-file": "server.key", "trusted-ca-file": "ca.pem"}
    extra = [f"--{flag}={tmp_path / name}" for flag, name in files.items()]
    url = f"https://127.0.0.1:{port}"
    argv = etcd_argv(etcd_binary, tmp_path / "data", port, "--client-cert-auth", *extra, scheme="https")

    def leases(who: str, ca_name: str = "ca") -> EtcdLeases:
        tls = EtcdTls(tmp_path / f"{ca_name}.pem", tmp_path / f"{who}.pem", tmp_path / f"{who}.key")
        return EtcdLeases([url], "/lq/x", "pod", Timing(6), tls=tls)

    with running(argv, log):
        await asyncio.to_thread(wait_until, "etcd", lambda: port_open(port), log)
        ours = leases("client")
        grant = await ours.renew(await asyncio.wait_for(ours.acquire(NAME), 20))
        assert grant.beat == 2
        await ours.close()
        for refused in (leases("stranger"), leases("client", "other-ca")):
            with pytest.raises(Transient):
                await refused.highest_term()
            await refused.close()

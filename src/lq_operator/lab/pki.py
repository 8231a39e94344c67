"""Certificates of a lab: two authorities (libvirt, Kubernetes) and the leaves they sign.

libvirt 9 refuses a server certificate without keyEncipherment ("usage does not permit key encipherment"), hence the
key usage below although the keys are elliptic.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=365)
_BACKDATE = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority kept in two files; loading it again gives the same one."""

    def __init__(self, folder: Path, common_name: str) -> None:
        self.certificate_file = folder / "ca.crt"
        key_file = folder / "ca.key"
        if not (self.certificate_file.exists() and key_file.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _sign(_name(common_name), key.public_key(), _name(common_name), key, is_authority=True)
            write_secret(key_file, _key_pem(key))
            write_secret(self.certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{key_file} holds a key of another kind than this lab makes; remove {folder}")
        self._key = loaded
        self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self.certificate_file.read_bytes()

    def issue(
        self, common_name: str, *, organization: str | None = None, hosts: Sequence[str] = (), server: bool = False
    ) -> Pair:
        """A new key with a certificate for a client, and for `hosts` (names or addresses) when it is a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if server:
            usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = _sign(
            _name(common_name, organization),
            key.public_key(),
            self._certificate.subject,
            self._key,
            hosts=hosts,
            usages=usages,
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def write_secret(path: Path, content: bytes) -> None:
    """Write so that only root can read it, and so that a killed writer leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.touch(mode=0o600)
    scratch.chmod(0o600)
    scratch.write_bytes(content)
    scratch.rename(path)


def write_signing_key(private_file: Path, public_file: Path) -> None:
    """The key pair that signs ServiceAccount tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_secret(private_file, _key_pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_secret(public_file, public)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _sign(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
    hosts: Sequence[str] = (),
    usages: Sequence[x509.ObjectIdentifier] = (),
) -> x509.Certificate:
    start = datetime.datetime.now(datetime.UTC) - _BACKDATE
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _LIFETIME)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(_key_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

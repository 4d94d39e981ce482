"""The webhook's own certificates: made here, kept in one Secret that all replicas of the operator read.

An authority signs one certificate, and its key is forgotten at once. So the Secret holds nothing that could sign
another one, authority and certificate end together, and there is one kind of rotation instead of two: a new pair.
An authority of ten years would be worth stealing for ten years, and its own end would be met untried.

When which pair is made, trusted and served is decided in `certificate_rotation`.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE_SECONDS = 90 * 86_400
"""Long enough to outlast an operator that is away for a month (it renews after two thirds), short enough that
rotation is a habit and not an event."""
SKEW_SECONDS = 3_600
"""Certificates begin this long ago, for API servers whose clocks are behind ours."""

_AUTHORITY_NAME = "plinth webhook authority"
_AUTHORITY, _CERTIFICATE, _KEY = "ca.crt", "tls.crt", "tls.key"
NEXT = "next."
"""Prefix of the Secret's keys for the pair that comes next."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A serving certificate with its key, and the authority that signed it; all PEM."""

    authority: bytes
    certificate: bytes
    key: bytes
    names: frozenset[str]
    """DNS names and addresses that it is good for."""
    begins: float
    ends: float

    @property
    def renew_at(self) -> float:
        """When two thirds of its life are over."""
        return self.begins + (self.ends - self.begins) * 2 / 3

    def __repr__(self) -> str:
        """Without the key, so that no log shows it."""
        return f"Pair({sorted(self.names)}, ends={datetime.fromtimestamp(self.ends, UTC).isoformat()})"


def make_pair(names: Iterable[str], now: float, *, life_seconds: float = LIFE_SECONDS) -> Pair:
    """A new authority, a new key, and the certificate for these names."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    begins = datetime.fromtimestamp(int(now), UTC) - timedelta(seconds=SKEW_SECONDS)
    ends = datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=life_seconds)
    # Subjects differ from one authority to the next, so that verifiers pick the right one by its name.
    serial = x509.random_serial_number()
    issuer = _name(f"{_AUTHORITY_NAME} {serial:x}"[:64])
    authority = (
        _builder(issuer, issuer, authority_key.public_key(), (begins, ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = sorted(names)
    certificate = (
        _builder(_name(names[0][:64]), issuer, key.public_key(), (begins, ends))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _pair(_pem(authority), _pem(certificate), private)


def read_pair(data: Mapping[str, str], prefix: str = "") -> Pair | None:
    """The pair in a Secret's data; None where it is not there, or somebody broke it."""
    try:
        parts = [base64.b64decode(data[prefix + key]) for key in (_AUTHORITY, _CERTIFICATE, _KEY)]
        return _pair(*parts)
    except (KeyError, ValueError, x509.ExtensionNotFound):
        return None


def write_pair(pair: Pair, prefix: str = "") -> dict[str, str]:
    """The pair as a Secret's data."""
    parts = {_AUTHORITY: pair.authority, _CERTIFICATE: pair.certificate, _KEY: pair.key}
    return {prefix + key: base64.b64encode(part).decode("ascii") for key, part in parts.items()}


def own_authorities(bundle: bytes, now: float) -> tuple[bytes, ...]:
    """The authorities in a bundle that were made here and have not ended; none of a bundle that cannot be read."""
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return ()
    return tuple(
        _pem(each)
        for each in found
        if each.subject.rfc4514_string().startswith(f"CN={_AUTHORITY_NAME} ")
        and each.not_valid_after_utc.timestamp() > now
    )


def authority_ends(authority: bytes) -> float:
    """When an authority ends, in Unix seconds."""
    return x509.load_pem_x509_certificate(authority).not_valid_after_utc.timestamp()


def _pair(authority: bytes, certificate: bytes, key: bytes) -> Pair:
    """Raises ValueError where the parts are not what they should be, or do not belong together."""
    issuer, leaf = x509.load_pem_x509_certificate(authority), x509.load_pem_x509_certificate(certificate)
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != leaf.public_key():
        raise ValueError("the key is not the certificate's")
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Pair(
        authority=authority,
        certificate=certificate,
        key=key,
        names=frozenset(str(name.value) for name in names),
        begins=leaf.not_valid_before_utc.timestamp(),
        ends=leaf.not_valid_after_utc.timestamp(),
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    life: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(life[0])
        .not_valid_after(life[1])
    )


def _usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not key_cert_sign,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

"""The home's own certificate authority, for an installation to which nobody has given a certificate.

    tls/ca.pem       what devices are told to trust; made once, for ten years
    tls/ca.key       signs it and the next; mode 0600
    tls/server.pem   what the MQTT ports show, its authority behind it; a new one for other names and near its end
    tls/server.key   mode 0600

The authority can vouch for servers only, and only directly: whoever steals its key can pretend to be this installation, and
nothing else to those who trust it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headwater.app.engines.account import write_private

AUTHORITY_DAYS = 3_650
SERVER_DAYS = 397
"""What browsers bear at most."""
RENEW_DAYS = 30
CLOCK_SKEW = timedelta(days=1)
"""A device that has just started often has yesterday's time."""


class HomeCertificate:
    """chain, key  what a gateway is given
    authority      what devices trust
    """

    def __init__(self, home: Path) -> None:
        self._directory = home / "tls"
        self.authority = self._directory / "ca.pem"
        self.chain = self._directory / "server.pem"
        self.key = self._directory / "server.key"

    def ensure(self, host: str) -> bool:
        """Make what is missing or no longer fits `host`. True = there is a new server certificate. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        now = datetime.now(UTC)
        names = names_of(host)
        authority, signer, is_new = self._authority(now)
        if not is_new and self._fits(names, authority, now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _server(names, key, authority, signer, now)
        # The key first: a gateway that looks in between finds a pair that does not match, and looks again in a minute.
        write_private(self.key, _pem_of_key(key))
        write_private(self.chain, _pem(certificate) + _pem(authority))
        return True

    def _authority(self, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
        key_file = self._directory / "ca.key"
        with suppress(OSError, ValueError):
            found = x509.load_pem_x509_certificate(self.authority.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            lasts = now + timedelta(days=SERVER_DAYS) < found.not_valid_after_utc
            if lasts and isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == found.public_key():
                return found, key, False
        made = ec.generate_private_key(ec.SECP256R1())
        certificate = _authority(made, now)
        write_private(key_file, _pem_of_key(made))
        write_private(self.authority, _pem(certificate))
        return certificate, made, True

    def _fits(self, names: list[x509.GeneralName], authority: x509.Certificate, now: datetime) -> bool:
        try:
            found = x509.load_pem_x509_certificate(self.chain.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), None)
            found.verify_directly_issued_by(authority)
            has = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except Exception:  # whatever is wrong with it, a new one is not
            return False
        is_pair = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == found.public_key()
        return is_pair and now + timedelta(days=RENEW_DAYS) < found.not_valid_after_utc and set(names) <= set(has)


def names_of(host: str) -> list[x509.GeneralName]:
    """Under what this machine is reached: `host` as it listens, itself, and where it listens everywhere, its addresses."""
    words = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104  # compared, not bound
        words += _addresses_of(socket.gethostname())
    else:
        words.append(host)
    return list(dict.fromkeys(_name(word) for word in words if word.isascii() and word))


def _addresses_of(name: str) -> Iterable[str]:
    with suppress(OSError):
        return sorted({str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(name, None)})
    return []


def _name(word: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(word))
    except ValueError:
        return x509.DNSName(word)


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _titled(f"Headwater on {socket.gethostname()}"[:64])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _unsigned(name, name, key.public_key(), key.public_key(), now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _server(
    names: list[x509.GeneralName],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    return (
        _unsigned(
            _titled("Headwater gateway"), authority.subject, key.public_key(), signer.public_key(), now=now, days=SERVER_DAYS
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _titled(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

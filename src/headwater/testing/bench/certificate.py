"""One certificate for both contestants: signed by itself, with a P-256 key, as most servers have today."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = timedelta(days=2)
"""Longer than any run."""


class Certificate(NamedTuple):
    file: Path
    key_file: Path


def make(directory: Path) -> Certificate:
    """Anybody may read the key: Mosquitto has an account of its own, and what it protects is over in minutes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made.file.write_bytes(signed.public_bytes(encoding))
    made.key_file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    for file in made:
        file.chmod(0o644)
    return made

"""The certificate of the ports: exchanged whole or not at all, and failures in words."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.support.certificates import Authority

from headwater.gateway.mqtt.tls import CertificateUnusable, ServerTLS, refusal_of


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(tls: ServerTLS, authority: Authority, client: ssl.SSLContext | None = None) -> int:
    """The serial number of the certificate that a client is shown. Raises what either side says."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    context = client or ssl.create_default_context(cafile=str(authority.file))
    device = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (device, server, device, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = device.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def test_a_new_pair_is_taken_and_half_a_pair_is_not(authority: Authority) -> None:
    chain, key = authority.issue("gateway")
    tls = ServerTLS(str(chain), str(key))
    context, first = tls.context, shown(tls, authority)
    assert not tls.reload()
    key.write_text("half of a pair")
    assert not tls.reload()
    assert shown(tls, authority) == first
    authority.issue("gateway")
    assert tls.reload()
    assert shown(tls, authority) != first
    assert tls.context is context  # whose tickets are still good
    chain.unlink()
    assert not tls.reload()
    assert shown(tls, authority) != first


def test_other_authorities_of_devices_hold_at_once(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    trusted = tmp_path / "devices.pem"
    trusted.write_bytes(authority.file.read_bytes())
    chain, key = authority.issue("gateway")
    tls = ServerTLS(str(chain), str(key), str(trusted))
    device = ssl.create_default_context(cafile=str(authority.file))
    device.load_cert_chain(*authority.issue("pump-1"))
    assert shown(tls, authority, device)
    trusted.write_bytes(stranger.file.read_bytes())
    assert tls.reload()
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        shown(tls, authority, device)
    assert refusal_of(refused.value).code == "tls.certificate_refused"


@pytest.mark.parametrize("broken", ["certificate", "key", "authorities"])
def test_files_that_do_not_fit_are_told_at_the_start(authority: Authority, tmp_path: Path, broken: str) -> None:
    chain, key = authority.issue("gateway")
    other, _ = authority.issue("other")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    files = {
        "certificate": (nonsense, key, ""),
        "key": (other, key, ""),
        "authorities": (chain, key, nonsense),
    }[broken]
    with pytest.raises(CertificateUnusable, match=Path(files[2] or files[0]).name):
        ServerTLS(*(str(file) for file in files))


def openssl(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), "tls.timeout"),
        (ConnectionResetError(), "tls.closed"),
        (ssl.SSLError(1, "x"), "tls.handshake_failed"),
        (openssl("NO_SHARED_CIPHER"), "tls.no_shared_cipher"),
        (openssl("HTTP_REQUEST"), "tls.not_tls"),
        (openssl("TLSV1_ALERT_UNKNOWN_CA"), "tls.alert_unknown_ca"),
        (openssl("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "tls.alert_certificate_expired"),
        (openssl("TLSV13_ALERT_MISSING_EXTENSION"), "tls.alert_missing_extension"),
        (openssl("TLSV1_UNRECOGNIZED_NAME"), "tls.alert_unrecognized_name"),
        (openssl("BAD_PACKET_LENGTH"), "tls.handshake_failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_failure_has_words(error: OSError, code: str) -> None:
    refusal = refusal_of(error)
    assert (refusal.stage, refusal.code) == ("tls", code)
    assert refusal.detail

"""The home's own certificate: who accepts it, and when there is a new one."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from headwater.app import certificates
from headwater.app.certificates import RENEW_DAYS, SERVER_DAYS, HomeCertificate


@pytest.fixture
def home(tmp_path: Path) -> HomeCertificate:
    made = HomeCertificate(tmp_path)
    assert made.ensure("127.0.0.1")
    return made


def handshake(home: HomeCertificate, name: str) -> None:
    """Without a network. Raises what the client says."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(home.chain, home.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = ssl.create_default_context(cafile=str(home.authority)).wrap_bio(to_client, to_server, server_hostname=name)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_accepts_it(home: HomeCertificate, name: str) -> None:
    handshake(home, name)


def test_another_name_is_not_ours(home: HomeCertificate) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(home, "example.org")


def test_it_stays_while_it_fits(home: HomeCertificate) -> None:
    before = home.chain.read_bytes(), home.authority.read_bytes()
    assert not home.ensure("127.0.0.1")
    assert (home.chain.read_bytes(), home.authority.read_bytes()) == before


def test_another_host_gets_a_new_one_from_the_same_authority(home: HomeCertificate) -> None:
    authority = home.authority.read_bytes()
    assert home.ensure("gateway.example")
    handshake(home, "gateway.example")
    assert home.authority.read_bytes() == authority
    assert home.ensure("192.0.2.1")
    handshake(home, "192.0.2.1")


def test_it_is_renewed_before_its_end(home: HomeCertificate, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = x509.load_pem_x509_certificate(home.chain.read_bytes()).serial_number

    def go_to(days: float) -> None:
        class Later(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # called with UTC only
                return datetime.now(UTC) + timedelta(days=days)

        monkeypatch.setattr(certificates, "datetime", Later)

    go_to(SERVER_DAYS - RENEW_DAYS - 1)
    assert not home.ensure("127.0.0.1")
    go_to(SERVER_DAYS - RENEW_DAYS + 1)
    assert home.ensure("127.0.0.1")
    assert x509.load_pem_x509_certificate(home.chain.read_bytes()).serial_number != serial


@pytest.mark.parametrize("file", ["chain", "key", "authority"])
def test_what_is_broken_is_made_again(home: HomeCertificate, file: str) -> None:
    getattr(home, file).write_text("nonsense")
    assert home.ensure("127.0.0.1")
    handshake(home, "localhost")


def test_keys_are_for_us_alone(home: HomeCertificate) -> None:
    for path in (home.key, home.authority.with_name("ca.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.key.parent.stat().st_mode) == 0o700

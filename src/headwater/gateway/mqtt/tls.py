"""TLS for the device ports: one context, its certificate exchanged while it serves, and failures in words.

The handshake itself is OpenSSL's through the event loop. Refuses TLS below 1.2 and what has no forward secrecy; both have
been in every TLS library for devices for a decade.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Any

import structlog

from headwater.gateway.mqtt.visitor import Refusal

log = structlog.get_logger(__name__)

HANDSHAKE_S = 10.0
"""Two round trips and, on the smallest microcontrollers, seconds of arithmetic."""
SHUTDOWN_S = 2.0
"""For the peer's close_notify; devices that lost their network never send one."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM"
"""Of TLS 1.2: forward secrecy and authenticated encryption. CCM is what small devices have in hardware."""
ALPN = ["mqtt", "x-amzn-mqtt-ca", "http/1.1"]
"""`mqtt` is what IANA lists; AWS device SDKs name their own; browsers want HTTP for a WebSocket. Nobody must name any."""


class CertificateUnusable(Exception):
    """The files are not a certificate with its key, or not authorities. The operator's fault, no device ever sees it."""


class _SpokenSSL(ssl.SSLObject):
    """Gives the alert of a handshake that fails along with the error: the event loop closes without having sent it."""

    _outgoing: ssl.MemoryBIO

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> _SpokenSSL:
        made: _SpokenSSL = super()._create(incoming, outgoing, *args, **options)  # type: ignore[misc]  # typeshed lacks it
        made._outgoing = outgoing
        return made

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.last_words = self._outgoing.read()  # type: ignore[attr-defined]  # for last_words_of
            raise


def last_words_of(error: BaseException) -> bytes:
    """The alert by which a device learns why its handshake failed; b"" where there is none."""
    return getattr(error, "last_words", b"")


class ServerTLS:
    """Raises CertificateUnusable at the start; later, unusable files are logged and the certificate in use stays.

    client_ca_file  whose certificates devices must show; empty = devices show none
    """

    def __init__(self, certificate_file: str, key_file: str, client_ca_file: str = "") -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file or certificate_file
        self._client_ca_file = client_ca_file
        self._seen = self._state()
        self.context = self._make()

    def reload(self) -> bool:
        """Take what lies there now, if anything has changed. Connections that are open keep what they have.

        A new certificate goes into the same context, so that sessions are still resumed. New client authorities get a
        context of their own: an authority cannot be taken out of one, and sessions that it vouched for must end.
        """
        seen = self._state()
        if seen == self._seen:
            return False
        try:
            fresh = self._make()  # tried beside the one in use: half a pair of files would break that one
        except CertificateUnusable as error:
            log.error("certificate_unusable", reason=str(error))
            return False
        try:
            if seen[2] == self._seen[2]:
                self._load(self.context)
            else:
                self.context = fresh
        except CertificateUnusable:  # replaced once more between the two
            self.context = fresh
        self._seen = seen
        log.info("certificate_loaded", file=self._certificate_file)
        return True

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = _SpokenSSL
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(ALPN)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
        self._load(context)
        if self._client_ca_file:
            try:
                context.load_verify_locations(self._client_ca_file)
            except OSError as error:  # an ssl.SSLError is one
                raise _unusable(self._client_ca_file, error) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._certificate_file, self._key_file)
        except OSError as error:  # an ssl.SSLError is one
            raise _unusable(f"{self._certificate_file} with the key {self._key_file}", error) from error

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when somebody replaces a file, whichever way."""
        return tuple(_stamp(file) for file in (self._certificate_file, self._key_file, self._client_ca_file))


def _unusable(what: str, error: OSError) -> CertificateUnusable:
    reason = _reason(error) if isinstance(error, ssl.SSLError) else error.strerror
    return CertificateUnusable(f"{what} cannot be used: {reason or error}")


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name for it; an error that Python or the loop has made has none."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def _stamp(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(Path(file)) if file else None  # noqa: PTH116  # one call, three answers
    except OSError:
        found = None
    return (found.st_mtime_ns, found.st_ino, found.st_size) if found is not None else (0, 0, 0)


_REFUSED = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no_certificate", "the device showed no certificate"),
    "NO_SHARED_CIPHER": ("no_shared_cipher", "no cipher suite in common"),
    "UNSUPPORTED_PROTOCOL": ("version", "the device speaks only a TLS version below 1.2"),
    "VERSION_TOO_LOW": ("version", "the device speaks only a TLS version below 1.2"),
    "WRONG_VERSION_NUMBER": ("not_tls", "what came is not TLS; plain MQTT has another port"),
    "HTTP_REQUEST": ("not_tls", "what came is a plain HTTP request, not TLS"),
    "HTTPS_PROXY_REQUEST": ("not_tls", "what came is a request to an HTTP proxy, not TLS"),
    "UNEXPECTED_EOF_WHILE_READING": ("closed", "the device closed the connection during the handshake"),
}
"""What we do not take, by OpenSSL's reason: the end of our code, and words."""
_ALERTS = {
    "unknown_ca": "the device does not trust our certificate's authority",
    "bad_certificate": "the device does not accept our certificate",
    "certificate_unknown": "the device does not accept our certificate",
    "unsupported_certificate": "the device cannot use our certificate's kind",
    "certificate_expired": "our certificate has expired by the device's clock",
    "certificate_revoked": "our certificate is revoked, the device says",
    "handshake_failure": "the device gave the handshake up",
    "protocol_version": "the device wants another TLS version",
    "decrypt_error": "the device could not check our signature",
    "unrecognized_name": "the device asked for another server name",
    "access_denied": "the device does not want this connection",
    "internal_error": "the device has an error of its own",
}
"""What the device does not take: RFC 8446, section 6.2."""
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(.+)")


def refusal_of(error: BaseException) -> Refusal:
    """Why a handshake failed, as words: what the person who installs a device needs to hear."""
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"the device's certificate is not accepted: {error.verify_message}"
        return Refusal("tls", "tls.certificate_refused", detail)
    if isinstance(error, ssl.SSLError):
        return _refusal_by(_reason(error))
    if isinstance(error, TimeoutError):
        return Refusal("tls", "tls.timeout", f"the handshake took more than {HANDSHAKE_S:.0f} s")
    return Refusal("tls", "tls.closed", "the device closed the connection during the handshake")


def _refusal_by(reason: str) -> Refusal:
    if reason in _REFUSED:
        code, words = _REFUSED[reason]
        return Refusal("tls", f"tls.{code}", words)
    alert = _ALERT.fullmatch(reason)
    if alert is None:
        return Refusal("tls", "tls.handshake_failed", reason.lower().replace("_", " "))
    name = alert[1].lower()
    return Refusal("tls", f"tls.alert_{name}", f"{_ALERTS.get(name, 'the device refused the handshake')} (alert {name})")

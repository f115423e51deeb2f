"""SCRAM verifiers."""

from __future__ import annotations

import base64

import pytest

from headwater.database.roles import scram_verifier


def test_the_example_of_rfc_7677():
    """User `user`, password `pencil`: the server's key must give the signature that RFC 7677, section 3, shows."""
    import hashlib
    import hmac

    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    form, iterations, kept = scram_verifier("pencil", salt).replace(":", "$", 1).split("$", 2)
    assert (form, iterations) == ("SCRAM-SHA-256", "4096")
    stored_key, server_key = (base64.b64decode(part) for part in kept.split("$")[1].split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(server_key, message, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored_key, message, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


def test_a_password_beyond_ascii_is_refused():
    with pytest.raises(ValueError, match="ASCII"):
        scram_verifier("pässword")

"""Headwater: a multi-tenant, hardware-agnostic IoT platform."""

__version__ = "0.1.0"

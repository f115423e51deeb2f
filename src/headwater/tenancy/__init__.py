"""Tenants, people, roles, tokens, quotas, audit. Knows nothing of HTTP or MQTT."""

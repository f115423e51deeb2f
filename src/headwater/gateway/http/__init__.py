"""The device-facing HTTP ingest."""

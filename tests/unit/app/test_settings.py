"""Settings: what cannot be is refused with the variable's name, and a slip in a name is seen."""

from __future__ import annotations

import pytest

from headwater.app import settings
from headwater.app.settings import SettingsInvalid


def test_each_number_has_a_range() -> None:
    texts = {"HEADWATER_LOG_LEVEL": "INFO", "HEADWATER_LOG_FORMAT": "json", "HEADWATER_NATS_UPLINK_BYTES_MAX": str(1 << 30)}
    read = settings.read({name: texts.get(name, "1") for name in settings.variables()})
    assert (read.gateway.connections_max, read.worker.rollup_interval_s, read.database.url) == (1, 1.0, "1")
    assert {"HEADWATER_GATEWAY_MQTTS_PORT", "HEADWATER_HOME", "HEADWATER_API_SECRET_KEY"} < set(settings.variables())


def test_variables_are_read() -> None:
    numbers = {
        "HEADWATER_GATEWAY_MQTT_PORT": "1",
        "HEADWATER_WORKER_ROLLUP_INTERVAL_S": "0.5",
        "HEADWATER_GATEWAY_LANE": "-1",
    }
    read = settings.read({**numbers, "HEADWATER_NATS_URL": "nats://a, nats://b", "HEADWATER_LOG_LEVEL": "debug"})
    assert (read.gateway.mqtt_port, read.worker.rollup_interval_s, read.gateway.lane) == (1, 0.5, -1)
    assert (read.nats.servers, read.log_level) == (["nats://a", "nats://b"], "DEBUG")
    assert settings.read({}).gateway.mqtts_port == 8883


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GATEWAY_MQTT_PORT", "mqtt", "must be a number (int), not 'mqtt'"),
        ("GATEWAY_MQTT_PORT", "65536", "must be from 0 to 65,535, not 65536"),
        ("GATEWAY_PROXY_PROTOCOL", "2", "must be from 0 to 1, not 2"),
        ("GATEWAY_KEEP_ALIVE_S_MAX", "0", "must be from 1 to 1,200"),
        ("GATEWAY_CONNECTS_PER_S", "-1", "must be from 0 to"),
        ("NATS_REPLICAS", "0", "must be from 1 to 5"),
        ("NATS_LANES", "0", "must be from 1 to"),
        ("WORKER_ROLLUP_INTERVAL_S", "nan", "must be from 0.01 to"),
        ("WORKER_NICE", "20", "must be from 0 to 19"),
        ("LOG_LEVEL", "loud", "must be one of DEBUG, INFO"),
        ("LOG_FORMAT", "xml", "must be one of json, console"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        settings.read({f"HEADWATER_{name}": value})
    assert refused.value.detail.startswith(f"HEADWATER_{name} ")
    assert said in refused.value.detail


def test_a_slip_in_a_name_is_seen() -> None:
    slips = {"HEADWATER_GATEWAY_MQTT_PROT": "1", "HEADWATER_LOGLEVEL": "DEBUG", "HEADWATER_NATS_REPLICA": "3"}
    others = {
        "HEADWATER_BACKUP_DIR": "/b",
        "HEADWATER_HOME": "/h",
        "HEADWATER_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "PATH": "/",
    }
    assert settings.misspelt({**slips, **others, "HEADWATER_NATS_URL": "nats://a"}) == [
        "HEADWATER_GATEWAY_MQTT_PROT is not a setting; HEADWATER_GATEWAY_MQTT_PORT is",
        "HEADWATER_LOGLEVEL is not a setting; HEADWATER_LOG_LEVEL is",
        "HEADWATER_NATS_REPLICA is not a setting; HEADWATER_NATS_REPLICAS is",
    ]

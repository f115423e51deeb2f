"""Payloads as real firmware sends them, through the topic rules that a profile would have for it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.profiles import NOW_US, compiled, plain

from headwater.device.profile import Decoder, TopicKind, TopicRule
from headwater.ingest.errors import Rejected
from headwater.stream.envelope import Kind

AT_16 = 1_764_000_000_000_000

TASMOTA_SENSOR = (
    b'{"Time":"2025-11-24T16:00:00","AM2301":{"Temperature":21.5,"Humidity":40.1,"DewPoint":7.4},'
    b'"ENERGY":{"TotalStartTime":"2023-01-01T00:00:00","Total":12.345,"Power":17,"Voltage":[230,231]},"TempUnit":"C"}'
)
TASMOTA_STATE = (
    b'{"Time":"2025-11-24T16:00:00","Uptime":"1T02:03:04","UptimeSec":93784,"Heap":25,"POWER":"ON",'
    b'"Wifi":{"AP":1,"SSId":"home","RSSI":86,"Signal":-57}}'
)
ZIGBEE2MQTT = (
    b'{"battery":97,"contact":true,"device_temperature":23,"last_seen":"2025-11-24T16:00:00+00:00","linkquality":120,'
    b'"power_outage_count":5,"update":{"installed_version":1,"latest_version":2,"state":"available"},"voltage":3015,'
    b'"color":{"x":0.3,"y":0.4},"action":null}'
)
SHELLY_GEN2 = (
    b'{"src":"shellyplus1-a8032abe54dc","dst":"shellies/events","method":"NotifyStatus","params":{"ts":1764000000.52,'
    b'"switch:0":{"id":0,"apower":12.4,"output":true,"temperature":{"tC":45.2,"tF":113.4}}}}'
)
SHELLY_GEN1 = (
    b'{"wifi_sta":{"connected":true,"ssid":"home","rssi":-61},"temperature":{"tC":22.5,"is_valid":true},"uptime":4711}'
)
TTN = (
    b'{"end_device_ids":{"device_id":"eui-1"},"received_at":"2025-11-24T16:00:00.123456789Z",'
    b'"uplink_message":{"f_port":2,"decoded_payload":{"temperature":21.5,"humidity":40},"rx_metadata":[{"rssi":-100}]}}'
)


def read(rule: TopicRule, topic: str, payload: bytes) -> list[tuple[int, dict[str, Any]]]:
    (compiled_rule,) = compiled(topics=(rule,)).topic_rules
    return [(at, plain(body)) for at, body in compiled_rule.reader(topic)(payload, NOW_US)]


def test_tasmota_sensor() -> None:
    rule = TopicRule("tele/+/SENSOR", flatten=True, time_key="Time")
    assert read(rule, "tele/plug/SENSOR", TASMOTA_SENSOR) == [
        (AT_16, {
            "AM2301.Temperature": 21.5, "AM2301.Humidity": 40.1, "AM2301.DewPoint": 7.4,
            "ENERGY.TotalStartTime": "2023-01-01T00:00:00", "ENERGY.Total": 12.345, "ENERGY.Power": 17,
            "ENERGY.Voltage": ("json", [230, 231]), "TempUnit": "C",
        })
    ]  # fmt: skip


def test_tasmota_state_without_a_time_key_keeps_the_time_as_text() -> None:
    ((at, body),) = read(TopicRule("tele/+/STATE", flatten=True), "tele/plug/STATE", TASMOTA_STATE)
    assert at == NOW_US
    assert body["Time"] == "2025-11-24T16:00:00"
    assert body["Wifi.Signal"] == -57


def test_zigbee2mqtt() -> None:
    rule = TopicRule("zigbee2mqtt/{external_id}", flatten=True, time_key="last_seen")
    ((at, body),) = read(rule, "zigbee2mqtt/door", ZIGBEE2MQTT)
    assert at == AT_16
    assert body == {
        "battery": 97, "contact": True, "device_temperature": 23, "linkquality": 120, "power_outage_count": 5,
        "update.installed_version": 1, "update.latest_version": 2, "update.state": "available", "voltage": 3015,
        "color.x": 0.3, "color.y": 0.4,
    }  # fmt: skip


def test_shelly_second_generation() -> None:
    rule = TopicRule("{external_id}/events/rpc", path="/params", flatten=True)
    assert read(rule, "shellyplus1-a8032abe54dc/events/rpc", SHELLY_GEN2) == [
        (AT_16 + 520_000, {
            "switch:0.id": 0, "switch:0.apower": 12.4, "switch:0.output": True,
            "switch:0.temperature.tC": 45.2, "switch:0.temperature.tF": 113.4,
        })
    ]  # fmt: skip


def test_shelly_first_generation() -> None:
    ((_, body),) = read(TopicRule("shellies/+/info", flatten=True), "shellies/x/info", SHELLY_GEN1)
    assert body["wifi_sta.rssi"] == -61
    assert body["temperature.tC"] == 22.5


def test_the_things_network_has_its_time_beside_the_values() -> None:
    rule = TopicRule("v3/+/devices/+/up", path="/uplink_message/decoded_payload", time_key="/received_at")
    assert read(rule, "v3/app/devices/eui-1/up", TTN) == [(AT_16 + 123_456, {"temperature": 21.5, "humidity": 40})]


@pytest.mark.parametrize(
    ("payload", "records"),
    [
        (b'{"temperature":42.2, "humidity":70}', [(NOW_US, {"temperature": 42.2, "humidity": 70})]),
        (b'{"stringKey":"value1", "booleanKey":true, "doubleKey":42.0, "longKey":73}',
         [(NOW_US, {"stringKey": "value1", "booleanKey": True, "doubleKey": 42.0, "longKey": 73})]),
        (b'{"jsonKey": {"someNumber": 42, "someArray": [1,2,3]}}',
         [(NOW_US, {"jsonKey": ("json", {"someNumber": 42, "someArray": [1, 2, 3]})})]),
        (b'{"ts":1451649600512, "values":{"key1":"value1", "key2":"value2"}}',
         [(1_451_649_600_512_000, {"key1": "value1", "key2": "value2"})]),
        (b'[{"ts":1451649600512,"values":{"k":1}},{"ts":1451649601512,"values":{"k":2}}]',
         [(1_451_649_600_512_000, {"k": 1}), (1_451_649_601_512_000, {"k": 2})]),
        (b'[{"key1":"value1"}, {"key2":true}]', [(NOW_US, {"key1": "value1"}), (NOW_US, {"key2": True})]),
    ],
)  # fmt: skip
def test_thingsboard_documents_these(payload: bytes, records: list[tuple[int, dict[str, Any]]]) -> None:
    assert [(at, plain(body)) for at, body in compiled().telemetry(payload, NOW_US)] == records


def test_a_path_that_is_not_there_is_said() -> None:
    with pytest.raises(Rejected) as caught:
        read(TopicRule("a", path="/params/0/x~1y"), "a", b'{"params": []}')
    assert caught.value.code == "payload.path_missing"


def test_a_path_leads_through_lists_and_escaped_names() -> None:
    assert read(TopicRule("a", path="/p/1/x~1y"), "a", b'{"p": [0, {"x/y": {"v": 1}}]}') == [(NOW_US, {"v": 1})]


def test_a_time_key_makes_ts_an_ordinary_metric() -> None:
    rule = TopicRule("a", time_key="when")
    assert read(rule, "a", b'{"when": 1764000000, "ts": 5, "time": 6}') == [(AT_16, {"ts": 5, "time": 6})]


def test_flattened_names_that_meet_are_refused() -> None:
    with pytest.raises(Rejected) as caught:
        read(TopicRule("a", flatten=True), "a", b'{"a": {"b": 1}, "a.b": 2}')
    assert caught.value.code == "payload.malformed"


def test_rules_for_attributes_and_events() -> None:
    profile = compiled(
        topics=(
            TopicRule("a/info", kind=TopicKind.ATTRIBUTES),
            TopicRule("a/event/+", kind=TopicKind.EVENT, path="/data"),
            TopicRule("a/cbor", decoder=Decoder.CBOR),
        )
    )
    attributes, event, telemetry = profile.topic_rules
    assert [rule.kind for rule in profile.topic_rules] == [Kind.ATTRIBUTES, Kind.EVENT, Kind.TELEMETRY]
    assert attributes.reader("a/info")(b'{"fw": "1.2", "time": 5, "old": null}', NOW_US) == [
        (NOW_US, {"fw": "1.2", "time": 5, "old": None})
    ]
    ((_, body),) = event.reader("a/event/button")(b'{"data": {"presses": 2}}', NOW_US)
    assert plain(body) == {"name": "button", "data": ("json", {"presses": 2})}
    assert telemetry.reader("a/cbor")(b"\xa1\x61a\x01", NOW_US) == [(NOW_US, {"a": 1})]


def test_attributes_and_events_of_the_native_contract() -> None:
    profile = compiled()
    assert profile.attributes(b'{"ts": 1764000000, "values": {"a": 1, "b": null}}', NOW_US) == [(AT_16, {"a": 1, "b": None})]
    assert profile.attributes(b'{"ts": 5, "serial": "x"}', NOW_US) == [(NOW_US, {"ts": 5, "serial": "x"})]
    for payload, at, data in (
        (b"", NOW_US, None),
        (b'"text"', NOW_US, "text"),
        (b'[{"a": 1}]', NOW_US, [{"a": 1}]),
        (b'{"ts": 1764000000, "data": [1]}', AT_16, [1]),
        (b'{"ts": 1764000000, "other": 1}', NOW_US, {"ts": 1_764_000_000, "other": 1}),
    ):
        ((observed_us, body),) = profile.event("door.open", payload, NOW_US)
        assert (observed_us, plain(body)) == (at, {"name": "door.open", "data": ("json", data)})
    for name in ("", "a b", "a/b", "x" * 65, "ü"):
        with pytest.raises(Rejected) as caught:
            profile.event_reader(name)
        assert caught.value.code == "event.name_invalid"

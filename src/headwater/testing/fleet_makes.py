"""The makes of device in the simulated fleet: what each measures, and how its firmware says it.

Nothing here knows sockets. A make's `simulate` is called once a device and gives a function from the elapsed time to the
message that the device sends now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import cbor2
import msgspec

from headwater.testing.fleet_signals import Battery, Drift, Lag, Route, Thermostat, daily

YEAR_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """content_type: MQTT 5 property or HTTP header, where the make says one"""

    topic: str
    payload: bytes
    content_type: str | None = None


Simulation = Callable[[float, float], Outgoing]
"""(now in seconds since the epoch, seconds since the last message) -> message"""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device knows of itself.

    prefix       of its native topics: `d/<tenant>/<device>/`
    """

    external_id: str
    prefix: str
    place: str


@dataclass(frozen=True, slots=True)
class Make:
    """transport: mqtt3 (3.1.1), mqtt5 or http; alone: the token is the whole login, as ThingsBoard firmware does"""

    name: str
    title: str
    transport: str
    profile: dict[str, Any]
    simulate: Callable[[Identity, Random], Simulation]
    alone: bool = False


def _metric(name: str, unit: str = "", kind: str = "float", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "unit": unit, **more}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """As sensors do: a few digits, not sixteen."""
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def _weather_station(me: Identity, chance: Random) -> Simulation:
    air, gust, front = Drift(chance, 1.2, 3_600), Drift(chance, 1.6, 300), Drift(chance, 6.0, 40_000)
    battery = Battery(chance.uniform(0.4, 1), YEAR_S)
    offset = chance.uniform(-2, 2)

    def step(now: float, elapsed: float) -> Outgoing:
        temperature = daily(now, mean=9 + offset, swing=5.5) + air.step(elapsed)
        pressure = 1013 + front.step(elapsed)
        values = {
            "temperature": temperature + chance.gauss(0, 0.05),
            "humidity": min(100.0, max(20.0, 78 - 2.2 * (temperature - 9) + chance.gauss(0, 0.6))),
            "pressure": pressure + chance.gauss(0, 0.08),
            "wind_speed": max(0.0, 3.2 + gust.step(elapsed) + chance.gauss(0, 0.4)),
            "battery_voltage": 2.4 + 0.8 * battery.step(elapsed),
        }
        return Outgoing(me.prefix + "telemetry", msgspec.json.encode(_rounded(values)))

    return step


def _cold_store(me: Identity, chance: Random) -> Simulation:
    room, thermostat = Lag(chance.uniform(2, 6), 900), Thermostat(4.0, 1.6, cooling=True)
    open_s = 0.0

    def step(now: float, elapsed: float) -> Outgoing:
        nonlocal open_s
        open_s = max(0.0, open_s - elapsed)
        if open_s == 0 and chance.random() < elapsed / 1_800:
            open_s = chance.uniform(20, 120)
        compressor = thermostat.step(room.value)
        target = (18.0 if open_s else 12.0) - (22.0 if compressor else 0.0)
        values = {
            "temperature": room.step(target, elapsed) + chance.gauss(0, 0.03),
            "set_point": thermostat.set_point,
            "compressor": compressor,
            "door_open": open_s > 0,
            "power": (640 + chance.gauss(0, 12) if compressor else 8 + chance.gauss(0, 0.5)),
        }
        payload = cbor2.dumps({"ts": round(now * 1000), "values": _rounded(values)})
        return Outgoing(me.prefix + "telemetry", payload, "application/cbor")

    return step


def _boiler(me: Identity, chance: Random) -> Simulation:
    flow, burner, pressure = Lag(48.0, 240), Thermostat(55.0, 9.0), Drift(chance, 0.05, 20_000)

    def step(now: float, elapsed: float) -> Outgoing:
        on = burner.step(flow.value)
        temperature = flow.step(74.0 if on else 34.0, elapsed)
        values = {
            "flow_temperature": temperature + chance.gauss(0, 0.1),
            "return_temperature": temperature - 9 - (4 if on else 0) + chance.gauss(0, 0.2),
            "pressure": 1.7 + pressure.step(elapsed),
            "burner": on,
            "modulation": min(100.0, max(20.0, 130 - temperature)) if on else 0.0,
        }
        payload = msgspec.json.encode({"ts": round(now * 1000), "values": _rounded(values)})
        return Outgoing("v1/devices/me/telemetry", payload)

    return step


def _plug(me: Identity, chance: Random) -> Simulation:
    load, mains = Lag(0.0, 4.0), Drift(chance, 1.4, 600)
    total_kwh, rated, left_s = chance.uniform(20, 900), chance.choice([60.0, 180.0, 900.0, 2_000.0]), 0.0
    running = False

    def step(now: float, elapsed: float) -> Outgoing:
        nonlocal total_kwh, left_s, running
        left_s -= elapsed
        if left_s <= 0:
            running, left_s = not running, chance.uniform(60, 900)
        voltage = 230 + mains.step(elapsed)
        power = max(0.0, load.step(rated if running else 1.2, elapsed) + chance.gauss(0, rated * 0.006))
        total_kwh += power * elapsed / 3.6e6
        energy = {
            "Total": round(total_kwh, 3), "Power": round(power), "Voltage": round(voltage),
            "Current": round(power / voltage, 3), "Factor": 0.97 if running else 0.4,
        }  # fmt: skip
        said = {"Time": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S"), "ENERGY": energy}
        return Outgoing(f"tele/{me.external_id}/SENSOR", msgspec.json.encode(said))

    return step


def _room_sensor(me: Identity, chance: Random) -> Simulation:
    room, air = Lag(21.0, 3_000), Drift(chance, 0.4, 2_000)
    co2, battery = Lag(520.0, 1_500), Battery(chance.uniform(0.3, 1), 2 * YEAR_S)
    occupied, left_s = False, 0.0

    def step(now: float, elapsed: float) -> Outgoing:
        nonlocal occupied, left_s
        left_s -= elapsed
        if left_s <= 0:
            occupied, left_s = not occupied, chance.uniform(300, 3_000)
        temperature = room.step(22.3 if occupied else 20.4, elapsed) + air.step(elapsed)
        values = {
            "temperature": round(temperature, 2),
            "humidity": round(46 + 3 * (22 - temperature) + chance.gauss(0, 0.3), 1),
            "co2": round(co2.step(1_250 if occupied else 430, elapsed) + chance.gauss(0, 6)),
            "occupancy": occupied,
            "battery": round(100 * battery.step(elapsed)),
            "linkquality": chance.randint(70, 180),
        }
        return Outgoing(f"zigbee2mqtt/{me.external_id}", msgspec.json.encode(values))

    return step


def _soil_probe(me: Identity, chance: Random) -> Simulation:
    moisture, rain_s = chance.uniform(24, 38), 0.0
    soil = Drift(chance, 0.3, 20_000)

    def step(now: float, elapsed: float) -> Outgoing:
        nonlocal moisture, rain_s
        rain_s = max(0.0, rain_s - elapsed)
        if rain_s == 0 and chance.random() < elapsed / 20_000:
            rain_s = chance.uniform(600, 4_000)
        moisture = min(45.0, max(12.0, moisture + elapsed * (0.004 if rain_s else -0.0002)))
        temperature = daily(now, mean=11, swing=1.5, warmest_h=18) + soil.step(elapsed)
        pack = [
            {"bn": "", "bt": round(now, 3), "n": "moisture", "u": "%", "v": round(moisture + chance.gauss(0, 0.1), 2)},
            {"n": "temperature", "u": "Cel", "v": round(temperature, 2)},
            {"n": "conductivity", "u": "S/m", "v": round(0.02 + moisture / 900 + chance.gauss(0, 0.0004), 4)},
            {"n": "raining", "vb": rain_s > 0},
        ]
        return Outgoing("/v1/telemetry", msgspec.json.encode(pack), "application/senml+json")

    return step


_ROUTES = (
    ((47.3769, 8.5417), (47.3901, 8.5159), (47.4112, 8.5442), (47.3950, 8.5800), (47.3662, 8.5630)),
    ((48.1374, 11.5755), (48.1500, 11.5400), (48.1750, 11.5560), (48.1620, 11.6010)),
    ((52.5200, 13.4050), (52.5370, 13.3600), (52.5560, 13.4140), (52.5300, 13.4500)),
)


def _tracker(me: Identity, chance: Random) -> Simulation:
    route, battery = Route(chance, chance.choice(_ROUTES)), Battery(chance.uniform(0.5, 1), 6 * 3_600.0)
    route.leg = chance.randrange(len(route.points))
    odometer = chance.uniform(2_000, 90_000)

    def step(now: float, elapsed: float) -> Outgoing:
        nonlocal odometer
        latitude, longitude, speed, heading = route.step(elapsed)
        odometer += speed * elapsed / 1000
        values = {
            "position": {"latitude": round(latitude, 6), "longitude": round(longitude, 6)},
            "speed": round(speed, 1),
            "heading": round(heading, 1),
            "odometer": round(odometer, 2),
            "battery": round(100 * battery.step(elapsed), 1),
            "ignition": "on" if speed > 0.5 else "idle",
        }
        return Outgoing(me.prefix + "telemetry", msgspec.json.encode({"ts": round(now * 1000), "values": values}))

    return step


MAKES = (
    Make("weather-station", "Weather station", "mqtt3", {"metrics": [
        _metric("temperature", "Cel", min=-60, max=70), _metric("humidity", "%RH", min=0, max=100),
        _metric("pressure", "hPa"), _metric("wind_speed", "m/s", min=0), _metric("battery_voltage", "V"),
    ]}, _weather_station),
    Make("cold-store", "Cold store", "mqtt5", {"metrics": [
        _metric("temperature", "Cel"), _metric("set_point", "Cel"), _metric("power", "W"),
        _metric("compressor", kind="boolean"), _metric("door_open", kind="boolean"),
    ]}, _cold_store),
    Make("thingsboard-boiler", "Boiler", "mqtt3", {"metrics": [
        _metric("flow_temperature", "Cel"), _metric("return_temperature", "Cel"), _metric("pressure", "bar"),
        _metric("burner", kind="boolean"), _metric("modulation", "%"),
    ]}, _boiler, alone=True),
    Make("tasmota-plug", "Smart plug", "mqtt3", {
        "metrics": [
            _metric("ENERGY.Power", "W"), _metric("ENERGY.Voltage", "V"), _metric("ENERGY.Current", "A"),
            _metric("ENERGY.Total", "kWh"), _metric("ENERGY.Factor"),
        ],
        "topics": [{"filter": "tele/{external_id}/SENSOR", "flatten": True, "time_key": "Time"}],
    }, _plug),
    Make("zigbee2mqtt-room", "Room sensor", "mqtt3", {
        "metrics": [
            _metric("temperature", "Cel"), _metric("humidity", "%RH"), _metric("co2", "ppm"),
            _metric("occupancy", kind="boolean"), _metric("battery", "%"), _metric("linkquality", kind="integer"),
        ],
        "topics": [{"filter": "zigbee2mqtt/{external_id}"}],
    }, _room_sensor),
    Make("senml-soil-probe", "Soil probe", "http", {"metrics": [
        _metric("moisture", "%"), _metric("temperature", "Cel"), _metric("conductivity", "S/m"),
        _metric("raining", kind="boolean"),
    ]}, _soil_probe),
    Make("tracker", "Vehicle tracker", "mqtt5", {"metrics": [
        _metric("position", kind="location"), _metric("speed", "m/s", min=0), _metric("heading", "deg"),
        _metric("odometer", "km"), _metric("battery", "%"), _metric("ignition", kind="string"),
    ]}, _tracker),
)  # fmt: skip

"""What a gateway says of itself to Prometheus."""

from __future__ import annotations

from headwater.app.metrics import Figure
from headwater.gateway.mqtt.admission import Admission
from headwater.gateway.mqtt.client_directory import ClientDirectory
from headwater.gateway.mqtt.door import Door
from headwater.gateway.mqtt.listener import MQTTListener
from headwater.gateway.mqtt.router import Router
from headwater.gateway.mqtt.visitor import STAGES
from headwater.gateway.timeline import Timeline
from headwater.live.feed import LiveFeed
from headwater.stream.uplink import StreamUplink


def figures_of(
    *,
    listener: MQTTListener,
    admission: Admission,
    router: Router,
    directory: ClientDirectory,
    door: Door,
    uplink: StreamUplink,
    timeline: Timeline,
    feed: LiveFeed,
) -> list[Figure]:
    lane = uplink.lane
    return [
        Figure("gauge", "mqtt_connections", "open MQTT connections", listener.connections),
        Figure("counter", "mqtt_connections_accepted", "MQTT connections since the start", listener.accepted_total),
        Figure("gauge", "mqtt_directory_clients", "clients whose gateway is kept here", len(directory)),
        Figure("gauge", "mqtt_connecting", "accepted connections without a CONNECT", door.connecting),
        Figure("gauge", "mqtt_waiting", "CONNECTs that wait for their authentication", door.waiting),
        Figure("counter", "mqtt_door_refused", "CONNECTs refused without asking the registry", door.refused_total),
        *_of_ports(listener),
        Figure("counter", "mqtt_connections_refused", "connections without a good credential", admission.refused_total),
        Figure("counter", "mqtt_topics_denied", "publishes to topics that are not the device's", listener.denied_total),
        Figure("counter", "mqtt_messages_dropped", "ordinary messages for slow subscribers", router.dropped_total),
        Figure("counter", "uplink_records_stored", "records that the stream has acknowledged", lane.stored_total),
        Figure("counter", "uplink_batches_stored", "record batches, one fsync each", lane.batches_total),
        Figure("gauge", "uplink_records_waiting", "records sent and not acknowledged yet", lane.backlog),
        Figure("counter", "timeline_said", "happenings told to the timelines of devices", timeline.said_total),
        Figure("counter", "timeline_counted", "of these, those that are part of a count", timeline.counted_total),
        Figure("counter", "timeline_lost", "timeline entries that NATS did not take", timeline.lost_total),
        Figure("counter", "live_batches_dropped", "copies that watchers were told they missed", feed.dropped_total),
    ]


def _of_ports(listener: MQTTListener) -> list[Figure]:
    figures = []
    for acceptor in listener.acceptors:
        scheme = acceptor.port.scheme
        accepted, refused = acceptor.accepted_total, acceptor.refused_total
        figures.append(Figure("counter", "mqtt_accepted", "sockets accepted, by port", accepted, {"port": scheme}))
        figures += [
            Figure(
                "counter", "mqtt_refused", "sockets of which no CONNECT came", refused.get(stage, 0),
                {"port": scheme, "stage": stage},
            )
            for stage in STAGES
        ]  # fmt: skip
    return figures

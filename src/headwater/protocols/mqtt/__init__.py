"""MQTT 3.1, 3.1.1 and 5.0 without sockets and clocks: the codec of both sides, the server's session, topics.

session = ServerSession(Limits(), opened_at=now)
for event in session.receive(data, now): ...      # packets, or why the connection ended
session.accept(now)                               # after Connect; or refuse(Reason.NOT_AUTHORIZED)
session.acknowledge_many([1, 2, 3])               # when the stream has stored them
session.deliver(Deliverable("a/b", b"x"), qos=1)  # one Deliverable for all the clients that get it
writer.write(session.take_outgoing())
"""

from headwater.protocols.mqtt.decode import PacketReader, decode_packet, find_frame
from headwater.protocols.mqtt.deliverable import Deliverable
from headwater.protocols.mqtt.encode import encode_packet
from headwater.protocols.mqtt.errors import (
    LocalProtocolError,
    PacketTooLarge,
    ProtocolError,
    RemoteProtocolError,
    WouldBlock,
)
from headwater.protocols.mqtt.events import ConnectionLost, Event, ProtocolFailed, TimedOut
from headwater.protocols.mqtt.limits import Limits
from headwater.protocols.mqtt.packet_types import PacketType
from headwater.protocols.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from headwater.protocols.mqtt.properties import EMPTY, PROPERTIES, Properties
from headwater.protocols.mqtt.reasons import Reason
from headwater.protocols.mqtt.session import STEPS, Phase, ServerSession
from headwater.protocols.mqtt.topics import (
    SubscriptionTree,
    match,
    parse_share,
    topic_filter_problem,
    topic_name_problem,
)

__all__ = [
    "EMPTY",
    "PROPERTIES",
    "STEPS",
    "Auth",
    "ConnAck",
    "Connect",
    "ConnectionLost",
    "Deliverable",
    "Disconnect",
    "Event",
    "Limits",
    "LocalProtocolError",
    "Packet",
    "PacketReader",
    "PacketTooLarge",
    "PacketType",
    "Phase",
    "PingReq",
    "PingResp",
    "Properties",
    "ProtocolError",
    "ProtocolFailed",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "Reason",
    "RemoteProtocolError",
    "ServerSession",
    "SubAck",
    "Subscribe",
    "Subscription",
    "SubscriptionTree",
    "TimedOut",
    "UnsubAck",
    "Unsubscribe",
    "Will",
    "WouldBlock",
    "decode_packet",
    "encode_packet",
    "find_frame",
    "match",
    "parse_share",
    "topic_filter_problem",
    "topic_name_problem",
]

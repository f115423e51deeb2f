"""Normative statements of MQTT as rows: what a client sends, what a server answers, whether the connection stays.

Clause ids are those of MQTT 5.0; `v3` marks the numbering of 3.1.1, and a comma separates several. `send` is hexadecimal,
spaces are for reading; the words below stand for whole packets. `answer` is written as `describe` shows packets: type, then
what matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from headwater.protocols.mqtt import ConnAck, Disconnect, Packet, PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck

WORDS = {
    "C3": "100f 00064d5149736470 03 02 003c 000163",
    "C4": "100d 00044d515454 04 02 003c 000163",
    "C5": "100e 00044d515454 05 02 003c 00 000163",
    "PING": "c000",
    "BYE": "e000",
}


class Mosquitto(Enum):
    """How a mosquitto 2.0 differs from a row; checked as well, so that a row never claims a difference that is gone."""

    SAME = "answers the same"
    SILENT = "closes without saying why"
    OTHER_REASON = "closes with another reason code"
    LENIENT = "keeps the connection"


SILENT, OTHER_REASON, LENIENT = Mosquitto.SILENT, Mosquitto.OTHER_REASON, Mosquitto.LENIENT


@dataclass(frozen=True)
class Case:
    clause: str
    says: str
    level: int
    send: str
    answer: str
    stays: bool
    mosquitto: Mosquitto = Mosquitto.SAME

    @property
    def clauses(self) -> list[str]:
        return self.clause.split(", ")

    @property
    def sent(self) -> bytes:
        return bytes.fromhex("".join(WORDS.get(word, word) for word in self.send.split()))


def describe(packet: Packet) -> str:
    match packet:
        case ConnAck(is_present, reason):
            return f"connack:{reason:02x}{':present' if is_present else ''}"
        case Disconnect(reason=reason):
            return f"disconnect:{reason:02x}"
        case PubAck(packet_id, reason) | PubRec(packet_id, reason) | PubRel(packet_id, reason) | PubComp(packet_id, reason):
            return f"{type(packet).__name__.lower()}:{packet_id}:{reason:02x}"
        case SubAck(packet_id, codes) | UnsubAck(packet_id, codes):
            return f"{type(packet).__name__.lower()}:{packet_id}:{bytes(codes).hex()}"
        case _:
            return type(packet).__name__.lower()


CASES = [
    # -- CONNECT -------------------------------------------------------------------------------------------------------
    Case("MQTT-3.1.0-1", "the first packet is a CONNECT", 4, "PING", "", False),
    Case("MQTT-3.1.0-2, MQTT-3.2.0-2", "there is one CONNECT", 4, "C4 C4", "connack:00", False),
    Case("MQTT-3.1.0-2, MQTT-3.2.0-2", "there is one CONNECT", 5, "C5 C5", "connack:00 disconnect:82", False, SILENT),
    Case("MQTT-3.1.2-1", "the protocol name is MQTT", 4, "100d 00044d515458 04 02 003c 000163", "", False),
    Case("MQTT-3.1.2-1", "the protocol name is MQTT", 5, "100e 00044d515458 05 02 003c 00 000163", "", False),
    Case("MQTT-3.1.2-2", "a level that is not supported", 4, "100d 00044d515454 07 02 003c 000163", "connack:01", False),
    Case("MQTT-3.1.2-3", "the reserved flag is 0", 4, "100d 00044d515454 04 03 003c 000163", "", False),
    Case("MQTT-3.1.2-3", "the reserved flag is 0", 5, "100e 00044d515454 05 03 003c 00 000163", "connack:81", False, SILENT),
    Case("MQTT-3.1.2-11", "no will QoS without a will", 4, "100d 00044d515454 04 0a 003c 000163", "", False),
    Case("MQTT-3.1.2-13", "no will retain without a will", 4, "100d 00044d515454 04 22 003c 000163", "", False),
    Case("MQTT-3.1.2-12", "the will QoS is not 3", 4, "1013 00044d515454 04 1e 003c 000163 000177 000178", "", False),
    Case("MQTT-3.1.2-9", "a will has a topic and a payload", 4, "100d 00044d515454 04 06 003c 000163", "", False),
    Case("MQTT-3.1.2-17", "a user name with its flag", 4, "100d 00044d515454 04 82 003c 000163", "", False),
    Case("MQTT-3.1.2-16", "no user name without its flag", 4, "1010 00044d515454 04 02 003c 000163 000175", "", False),
    Case("MQTT-3.1.2-19", "a password with its flag", 4, "1010 00044d515454 04 c2 003c 000163 000175", "", False),
    Case("MQTT-3.1.2-22 v3", "no password without a user name", 4, "1010 00044d515454 04 42 003c 000163 000170", "", False),
    Case("3.1.2.9", "5.0 allows a password alone", 5, "1011 00044d515454 05 42 003c 00 000163 000170", "connack:00", True),
    Case("MQTT-3.1.3-4", "the client identifier is UTF-8", 4, "100d 00044d515454 04 02 003c 0001ff", "", False),
    Case(
        "MQTT-3.1.3-4",
        "the client identifier is UTF-8",
        5,
        "100e 00044d515454 05 02 003c 00 0001ff",
        "connack:81",
        False,
        SILENT,
    ),
    Case("MQTT-3.1.3-6", "a client identifier is assigned", 4, "100c 00044d515454 04 02 003c 0000", "connack:00", True),
    Case("MQTT-3.1.3-7", "a client identifier is assigned", 5, "100d 00044d515454 05 02 003c 00 0000", "connack:00", True),
    Case(
        "MQTT-3.1.3-8 v3, MQTT-3.2.2-6, MQTT-3.2.2-7",
        "no identifier, no clean session",
        4,
        "100c 00044d515454 04 00 003c 0000",
        "connack:02",
        False,
    ),
    Case("3.1 section 3.1", "3.1 needs an identifier", 3, "100e 00064d5149736470 03 02 003c 0000", "connack:02", False),
    Case("MQTT-3.1.3-11", "the will topic is UTF-8", 4, "1013 00044d515454 04 06 003c 000163 0001ff 000178", "", False),
    Case("MQTT-3.1.3-12", "the user name is UTF-8", 4, "1010 00044d515454 04 82 003c 000163 0001ff", "", False),
    Case("MQTT-3.1.4-1", "nothing behind the last field", 4, "100e 00044d515454 04 02 003c 000163 00", "", False),
    Case("MQTT-3.1.4-1, MQTT-3.1.3-3", "a CONNECT is complete", 4, "100b 00044d515454 04 02 003c 0001", "", False),
    Case("MQTT-3.1.4-5, MQTT-3.2.0-1", "success is acknowledged", 4, "C4", "connack:00", True),
    Case("MQTT-3.1.4-5, MQTT-3.2.0-1", "success is acknowledged", 5, "C5", "connack:00", True),
    Case("3.1 section 3.2", "success is acknowledged", 3, "C3", "connack:00", True),
    Case(
        "3.1.4",
        "packets may follow at once",
        4,
        "C4 8206 0001 000162 01 3205 000161 0002",
        "connack:00 suback:1:01 puback:2:00",
        True,
    ),
    Case(
        "2.2.2.2",
        "a property stands once",
        5,
        "1018 00044d515454 05 02 003c 0a 1100000001 1100000001 000163",
        "connack:82",
        False,
        SILENT,
    ),
    Case(
        "2.2.2.2",
        "a property of another packet",
        5,
        "1011 00044d515454 05 02 003c 03 230001 000163",
        "connack:81",
        False,
        SILENT,
    ),
    Case(
        "3.1.2.11.3",
        "the receive maximum is not 0",
        5,
        "1011 00044d515454 05 02 003c 03 210000 000163",
        "connack:82",
        False,
        SILENT,
    ),
    Case(
        "3.1.2.11.4",
        "nor the packet size",
        5,
        "1013 00044d515454 05 02 003c 05 2700000000 000163",
        "connack:82",
        False,
        SILENT,
    ),
    Case(
        "MQTT-3.1.2-24",
        "who has no room for a CONNACK is refused",
        5,
        "1013 00044d515454 05 02 003c 05 270000000a 000163",
        "connack:83",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-3.1.2-24",
        "not even for a refusal",
        5,
        "1013 00044d515454 05 02 003c 05 2700000004 000163",
        "",
        False,
        SILENT,
    ),
    Case(
        "3.1.3.2.3",
        "a will that claims to be text is text",
        5,
        "1017 00044d515454 05 06 003c 00 000163 02 0101 000177 0001ff",
        "connack:99",
        False,
        LENIENT,
    ),
    Case(
        "3.1.3.2.3",
        "a will that is the text that it claims to be",
        5,
        "1019 00044d515454 05 06 003c 00 000163 02 0101 000177 0003e282ac",
        "connack:00",
        True,
    ),
    Case(
        "MQTT-4.12.0-1, MQTT-3.2.2-7, MQTT-3.2.2-8, MQTT-4.13.2-1",
        "an unknown method",
        5,
        "1012 00044d515454 05 02 003c 04 15000178 000163",
        "connack:8c",
        False,
    ),
    Case("MQTT-3.1.2-18", "no password without its flag", 4, "1013 00044d515454 04 82 003c 000163 000175 000170", "", False),
    Case(
        "MQTT-3.1.3-1",
        "the fields in their order",
        4,
        "1019 00044d515454 04 c6 003c 000163 000177 000178 000175 000170",
        "connack:00",
        True,
    ),
    Case(
        "MQTT-3.1.3-1",
        "the fields in their order",
        5,
        "101b 00044d515454 05 c6 003c 00 000163 00 000177 000178 000175 000170",
        "connack:00",
        True,
    ),
    Case(
        "MQTT-3.1.3-5",
        "an identifier of 23 characters",
        4,
        "1023 00044d515454 04 02 003c 0017 303132333435363738396162636465666768696a414243",
        "connack:00",
        True,
    ),
    # -- fixed header --------------------------------------------------------------------------------------------------
    Case("2.1.4", "a length has at most four bytes", 4, "C4 30ffffffff7f", "connack:00", False),
    Case("2.1.4", "a length has at most four bytes", 5, "C5 30ffffffff7f", "connack:00 disconnect:81", False, SILENT),
    Case("2.1.2", "type 0 is forbidden", 4, "C4 0000", "connack:00", False),
    Case("2.1.2", "type 0 is forbidden", 5, "C5 0000", "connack:00 disconnect:81", False, OTHER_REASON),
    Case("2.2.1 v3", "type 15 is forbidden", 4, "C4 f000", "connack:00", False),
    Case("MQTT-4.12.0-7", "no AUTH without a method", 5, "C5 f000", "connack:00 disconnect:82", False, SILENT),
    Case("MQTT-2.1.3-1", "PINGREQ has no flags", 4, "C4 c100", "connack:00", False, LENIENT),
    Case("MQTT-2.1.3-1", "PUBACK has no flags", 5, "C5 4102 0001", "connack:00 disconnect:81", False, LENIENT),
    Case("MQTT-3.14.1-1", "DISCONNECT has no flags", 5, "C5 e100", "connack:00 disconnect:81", False, SILENT),
    Case("MQTT-3.14.1-1", "DISCONNECT has no flags", 4, "C4 e100", "connack:00", False),
    Case("MQTT-3.15.1-1", "AUTH has no flags", 5, "C5 f100", "connack:00 disconnect:81", False, SILENT),
    Case("MQTT-3.15.2-1", "an AUTH reason", 5, "C5 f001 01", "connack:00 disconnect:82", False, SILENT),
    Case("MQTT-3.6.1-1", "PUBREL has the flags 2", 4, "C4 6002 0001", "connack:00", False),
    Case("MQTT-3.6.1-1", "PUBREL has the flags 2", 5, "C5 6002 0001", "connack:00 disconnect:81", False, SILENT),
    Case("MQTT-3.8.1-1", "SUBSCRIBE has the flags 2", 4, "C4 8006 0001 000161 00", "connack:00", False),
    Case("MQTT-3.8.1-1", "SUBSCRIBE has the flags 2", 5, "C5 8007 0001 00 000161 00", "connack:00 disconnect:81", False),
    Case("MQTT-3.10.1-1", "UNSUBSCRIBE has the flags 2", 4, "C4 a005 0001 000161", "connack:00", False),
    Case("MQTT-3.10.1-1", "UNSUBSCRIBE has the flags 2", 5, "C5 a006 0001 00 000161", "connack:00 disconnect:81", False),
    Case(
        "3.1 section 3.1",
        "3.1 does not use the flags of CONNECT",
        3,
        "1e0f 00064d5149736470 03 02 003c 000163",
        "connack:00",
        True,
    ),
    Case("3.1 section 3.12", "nor those of PINGREQ", 3, "C3 c800", "connack:00 pingresp", True),
    Case("3.1 section 2.1", "3.1 allows DUP on SUBSCRIBE", 3, "C3 8a06 0001 000161 00", "connack:00 suback:1:00", True),
    # -- PUBLISH -------------------------------------------------------------------------------------------------------
    Case("MQTT-3.3.4-1", "QoS 1 is answered with PUBACK", 4, "C4 3206 000161 0007 78", "connack:00 puback:7:00", True),
    Case("MQTT-3.3.4-1", "QoS 1 is answered with PUBACK", 3, "C3 3206 000161 0007 78", "connack:00 puback:7:00", True),
    Case("MQTT-3.3.4-1", "QoS 0 is not answered", 4, "C4 3004 000161 78 PING", "connack:00 pingresp", True),
    Case(
        "MQTT-4.3.2-5",
        "after PUBACK it is a new message",
        4,
        "C4 3205 000161 0007 3a05 000161 0007",
        "connack:00 puback:7:00 puback:7:00",
        True,
    ),
    Case("4.6", "PUBACKs in order", 4, "C4 3205 000161 0009 3205 000161 0003", "connack:00 puback:9:00 puback:3:00", True),
    Case("MQTT-3.3.1-4", "there is no QoS 3", 4, "C4 3605 000161 0001", "connack:00", False),
    Case("MQTT-3.3.1-4", "there is no QoS 3", 5, "C5 3606 000161 0001 00", "connack:00 disconnect:81", False),
    Case("MQTT-3.3.1-2", "no DUP at QoS 0", 4, "C4 3803 000161", "connack:00", False, LENIENT),
    Case("MQTT-2.2.1-3", "a packet identifier is not 0", 4, "C4 3205 000161 0000", "connack:00", False),
    Case("MQTT-3.3.2-1", "a topic name is there", 4, "C4 3001 00", "connack:00", False),
    Case("MQTT-3.3.2-1", "a topic name fits its packet", 4, "C4 3004 000961 78", "connack:00", False),
    Case("MQTT-3.3.2-2, MQTT-4.7.0-1", "no wildcard in a topic name", 4, "C4 3005 0003612f2b", "connack:00", False),
    Case(
        "MQTT-3.3.2-2, MQTT-4.7.0-1",
        "no wildcard in a topic name",
        5,
        "C5 3006 0003612f23 00",
        "connack:00 disconnect:82",
        False,
    ),
    Case("MQTT-4.7.3-1", "a topic name is not empty", 4, "C4 3002 0000", "connack:00", False),
    Case("3.3.2.1", "5.0: nor without an alias", 5, "C5 3003 0000 00", "connack:00 disconnect:82", False),
    Case("MQTT-1.5.4-2, MQTT-4.7.3-2", "no U+0000", 4, "C4 3003 000100", "connack:00", False),
    Case("MQTT-1.5.4-1", "no surrogates", 4, "C4 3005 0003eda080", "connack:00", False),
    Case("MQTT-1.5.4-1", "no overlong forms", 5, "C5 3005 0002c080 00", "connack:00 disconnect:81", False),
    Case("MQTT-1.5.4-3", "U+FEFF is a character", 4, "C4 3207 0003efbbbf 0001", "connack:00 puback:1:00", True),
    Case("MQTT-1.5.5-1", "lengths are minimal", 5, "C5 3005 000161 8000", "connack:00 disconnect:81", False),
    Case(
        "MQTT-1.5.7-1",
        "both strings of a pair are UTF-8",
        5,
        "C5 300b 000161 07 26 0001ff 000161",
        "connack:00 disconnect:81",
        False,
        SILENT,
    ),
    Case("MQTT-3.3.2-8", "no topic alias 0", 5, "C5 3007 000161 03 230000", "connack:00 disconnect:94", False, OTHER_REASON),
    Case("MQTT-3.3.2-9", "no alias beyond the maximum", 5, "C5 3007 000161 03 23ffff", "connack:00 disconnect:94", False),
    Case("3.3.2.3.4", "no alias without a topic", 5, "C5 3006 0000 03 230001", "connack:00 disconnect:82", False),
    Case(
        "MQTT-3.3.2-12",
        "an alias stands for its topic",
        5,
        "C5 3209 000161 0001 03 230001 3208 0000 0002 03 230001",
        "connack:00 puback:1:00 puback:2:00",
        True,
    ),
    Case(
        "MQTT-3.3.4-6", "no subscription identifier", 5, "C5 3006 000161 02 0b01", "connack:00 disconnect:82", False, LENIENT
    ),
    Case(
        "MQTT-3.3.2-14",
        "no wildcard in a response topic",
        5,
        "C5 3008 000161 04 0800012b",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-3.3.2-13",
        "a response topic is UTF-8",
        5,
        "C5 3008 000161 04 080001ff",
        "connack:00 disconnect:81",
        False,
        SILENT,
    ),
    Case(
        "MQTT-3.3.2-19",
        "a content type is UTF-8",
        5,
        "C5 3008 000161 04 030001ff",
        "connack:00 disconnect:81",
        False,
        SILENT,
    ),
    Case(
        "3.3.2.3.2", "the payload format is 0 or 1", 5, "C5 3006 000161 02 0102", "connack:00 disconnect:82", False, LENIENT
    ),
    Case("2.2.2.2", "a property stands once", 5, "C5 3008 000161 04 0100 0100", "connack:00 disconnect:82", False, SILENT),
    Case("2.2.2.2", "an unknown property", 5, "C5 3006 000161 02 7f00", "connack:00 disconnect:81", False),
    # -- acknowledgements ----------------------------------------------------------------------------------------------
    Case("MQTT-2.2.1-5", "a PUBACK for nothing is ignored", 4, "C4 4002 0009 PING", "connack:00 pingresp", True),
    Case("MQTT-2.2.1-5", "a PUBACK for nothing is ignored", 5, "C5 4002 0009 PING", "connack:00 pingresp", True),
    Case(
        "MQTT-3.4.2-1", "a PUBACK has a PUBACK reason", 5, "C5 4004 0009 01 00", "connack:00 disconnect:82", False, LENIENT
    ),
    Case("MQTT-3.5.2-1", "a PUBREC reason", 5, "C5 5004 0001 01 00", "connack:00 disconnect:82", False, LENIENT),
    Case("MQTT-3.6.2-1", "a PUBREL reason", 5, "C5 6204 0001 01 00", "connack:00 disconnect:82", False, LENIENT),
    Case("MQTT-3.7.2-1", "a PUBCOMP reason", 5, "C5 7004 0001 01 00", "connack:00 disconnect:82", False, LENIENT),
    Case("MQTT-3.6.2-1", "a PUBREL for nothing", 5, "C5 6202 0009", "connack:00 pubcomp:9:92", True, OTHER_REASON),
    Case("MQTT-4.3.3-8", "QoS 2 is answered with PUBREC", 4, "C4 3406 000161 0007 78", "connack:00 pubrec:7:00", True),
    Case("MQTT-4.3.3-4", "a PUBREC for nothing", 5, "C5 5002 0009", "connack:00 pubrel:9:92", True, OTHER_REASON),
    Case("MQTT-4.3.3-4", "a failed PUBREC is not answered", 5, "C5 5003 0009 97 PING", "connack:00 pingresp", True),
    Case("3.4", "a PUBACK has a packet identifier", 4, "C4 4001 00", "connack:00", False),
    Case("MQTT-4.3.3-11", "PUBREL is answered with PUBCOMP", 4, "C4 6202 0001", "connack:00 pubcomp:1:00", True),
    # -- SUBSCRIBE, UNSUBSCRIBE ----------------------------------------------------------------------------------------
    Case(
        "MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-2.2.1-6",
        "SUBSCRIBE is answered",
        4,
        "C4 8206 000a 000161 01",
        "connack:00 suback:10:01",
        True,
    ),
    Case(
        "MQTT-3.8.4-6, MQTT-3.9.3-2",
        "a code for each filter, in order",
        4,
        "C4 820a 0001 000161 01 000162 00",
        "connack:00 suback:1:0100",
        True,
    ),
    Case(
        "MQTT-3.9.3-1",
        "a code for each filter, in order",
        5,
        "C5 820b 0001 00 000161 00 000162 01",
        "connack:00 suback:1:0001",
        True,
    ),
    Case("MQTT-3.8.3-2", "SUBSCRIBE has a filter", 4, "C4 8202 0001", "connack:00", False),
    Case("MQTT-3.8.3-2", "SUBSCRIBE has a filter", 5, "C5 8203 0001 00", "connack:00 disconnect:82", False, OTHER_REASON),
    Case("MQTT-3.8.3-1", "a filter is UTF-8", 4, "C4 8206 0001 0001ff 00", "connack:00", False),
    Case("MQTT-3.8.3-4 v3", "no QoS 3, no reserved bits", 4, "C4 8206 0001 000161 03", "connack:00", False),
    Case("MQTT-3.8.3-4 v3", "no QoS 3, no reserved bits", 4, "C4 8206 0001 000161 04", "connack:00", False),
    Case("3.8.3.1", "no QoS 3", 5, "C5 8207 0001 00 000161 03", "connack:00 disconnect:82", False, OTHER_REASON),
    Case("MQTT-3.8.3-5", "no reserved bits", 5, "C5 8207 0001 00 000161 40", "connack:00 disconnect:81", False),
    Case("3.8.3.1", "no retain handling 3", 5, "C5 8207 0001 00 000161 30", "connack:00 disconnect:82", False, OTHER_REASON),
    Case("MQTT-2.2.1-3", "a packet identifier is not 0", 4, "C4 8206 0000 000161 00", "connack:00", False),
    Case("MQTT-4.7.3-1", "a filter is not empty", 4, "C4 8205 0001 0000 00", "connack:00", False),
    Case("MQTT-4.7.1-1", "# is the last level", 4, "C4 8208 0001 0003232f61 00", "connack:00", False),
    Case("MQTT-4.7.1-1", "# is a whole level", 4, "C4 8207 0001 00026123 00", "connack:00", False),
    Case("MQTT-4.7.1-2", "+ is a whole level", 4, "C4 8207 0001 0002612b 00", "connack:00", False),
    Case("MQTT-4.7.1-2", "+ may be any level", 4, "C4 8208 0001 00032b2f2b 00", "connack:00 suback:1:00", True),
    Case(
        "MQTT-3.8.3-4",
        "no local on a share",
        5,
        "C5 820e 0001 00 0008 2473686172652f67 04",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-3.8.3-4",
        "no local on a share",
        5,
        "C5 8210 0001 00 000a 2473686172652f672f61 04",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-4.8.2-1",
        "a share has a name",
        5,
        "C5 820f 0001 00 0009 2473686172652f2f61 00",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-4.8.2-2",
        "no wildcard in a share's name",
        5,
        "C5 8210 0001 00 000a 2473686172652f2b2f61 00",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case(
        "MQTT-4.8.2-2",
        "no wildcard in a share's name",
        5,
        "C5 8210 0001 00 000a 2473686172652f232f61 00",
        "connack:00 disconnect:82",
        False,
        OTHER_REASON,
    ),
    Case(
        "MQTT-4.8.2-2",
        "a share has a filter",
        5,
        "C5 820f 0001 00 0009 2473686172652f672f 00",
        "connack:00 disconnect:82",
        False,
        LENIENT,
    ),
    Case("MQTT-4.8.2-2", "a share has a filter", 4, "C4 820d 0001 0008 2473686172652f67 00", "connack:00", False, LENIENT),
    Case(
        "MQTT-4.8.2-2",
        "no wildcard in a share's name",
        4,
        "C4 8210 0001 000b 2473686172652f672b2f61 00",
        "connack:00",
        False,
    ),
    Case(
        "3.8.2.1.2",
        "no subscription identifier 0",
        5,
        "C5 8209 0001 02 0b00 0001 61 00",
        "connack:00 disconnect:82",
        False,
        OTHER_REASON,
    ),
    Case(
        "3.8.2.1.2",
        "one subscription identifier",
        5,
        "C5 820b 0001 04 0b01 0b02 0001 61 00",
        "connack:00 disconnect:82",
        False,
        SILENT,
    ),
    Case(
        "MQTT-3.10.4-4, MQTT-3.10.4-5",
        "UNSUBSCRIBE is always answered",
        4,
        "C4 a205 000b 000161",
        "connack:00 unsuback:11:",
        True,
    ),
    Case(
        "MQTT-3.11.3-1, MQTT-3.11.3-2",
        "UNSUBACK has a code for each",
        5,
        "C5 a209 000b 00 000161 000162",
        "connack:00 unsuback:11:1111",
        True,
    ),
    Case("MQTT-3.10.3-2", "UNSUBSCRIBE has a filter", 4, "C4 a202 0001", "connack:00", False),
    Case("MQTT-3.10.3-2", "UNSUBSCRIBE has a filter", 5, "C5 a203 0001 00", "connack:00 disconnect:82", False, OTHER_REASON),
    Case("MQTT-3.10.3-1", "a filter is UTF-8", 4, "C4 a205 0001 0001ff", "connack:00", False),
    # -- PINGREQ, DISCONNECT, and what only a server sends -------------------------------------------------------------
    Case("MQTT-3.12.4-1", "PINGREQ is answered", 4, "C4 PING", "connack:00 pingresp", True),
    Case("MQTT-3.12.4-1", "PINGREQ is answered", 5, "C5 PING", "connack:00 pingresp", True),
    Case("3.12", "PINGREQ has no body", 4, "C4 c001 00", "connack:00", False, LENIENT),
    Case("MQTT-3.14.4-1", "nothing is answered behind DISCONNECT", 4, "C4 BYE PING", "connack:00", False),
    Case("MQTT-3.14.4-1", "nothing is answered behind DISCONNECT", 5, "C5 BYE PING", "connack:00", False),
    Case("MQTT-3.14.2-1", "a DISCONNECT reason", 5, "C5 e001 01", "connack:00 disconnect:82", False, SILENT),
    Case(
        "3.14.2.2.2", "an expiry cannot be raised from 0", 5, "C5 e007 00 05 1100000005", "connack:00 disconnect:82", False
    ),
    Case("2.1.2", "CONNACK is the server's", 4, "C4 2002 0000", "connack:00", False),
    Case("2.1.2", "SUBACK is the server's", 4, "C4 9003 0001 00", "connack:00", False, LENIENT),
    Case("2.1.2", "UNSUBACK is the server's", 4, "C4 b002 0001", "connack:00", False, LENIENT),
    Case("2.1.2", "PINGRESP is the server's", 5, "C5 d000", "connack:00 disconnect:82", False, LENIENT),
]

LIMITED = [  # what our limits announce, and what follows when a client does not keep to it
    ("MQTT-3.2.2-11", "C5 3406 000161 0001 00", "connack:00 disconnect:9b"),
    ("MQTT-3.2.2-11", "C4 3405 000161 0001", "connack:00"),
    ("MQTT-3.2.2-14", "C5 3104 000161 00", "connack:00 disconnect:9a"),
    ("MQTT-3.2.2-15", f"C5 30c701 000161 00 {'00' * 195}", "connack:00 disconnect:95"),
    ("MQTT-3.2.2-15", f"C4 30c701 000161 {'00' * 196}", "connack:00"),
    ("MQTT-3.3.4-7", "C5 3206 000161 0001 00 3206 000161 0002 00 3206 000161 0003 00", "connack:00 disconnect:93"),
    ("3.2.2.3.12", "C5 8209 0001 02 0b01 000161 00", "connack:00 disconnect:a1"),
    ("3.2.2.3.13", "C5 8210 0001 00 000a 2473686172652f672f61 00", "connack:00 disconnect:9e"),
    ("MQTT-3.2.2-12", "1015 00044d515454 05 16 003c 00 000163 00 000177 000178", "connack:9b"),
    ("MQTT-3.2.2-13", "1015 00044d515454 05 26 003c 00 000163 00 000177 000178", "connack:9a"),
    ("topic_bytes_max", f"C5 3036 0032 {'61' * 50} 00 78", "connack:00 disconnect:90"),
    ("topic_bytes_max", f"C5 8238 0001 00 0032 {'61' * 50} 00", "connack:00 disconnect:8f"),
    ("connect_bytes_max", f"10 8001 00044d515454 04 02 003c 0074 {'61' * 116}", ""),
]

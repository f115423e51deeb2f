"""From publishers to subscribers: fan-in, fan-out, or pairs, at QoS 0, 1 or 2; every message is counted where it arrives.

Closed loops: a publisher has `window` messages under way at most, and a message is under way until every one of its
subscribers has received it and its publisher has its receipt. So the rate is what is delivered, and a broker that throws
away what it cannot carry gains nothing: what it lost keeps its place in the window until nothing has come for STALL_S.

A message is its time, its publisher's number and its own; a subscriber knows which one is due, so what is missing, comes
again, or overtakes another is seen at once. Packets of one run have one length, so that a read of hundreds of them is looked
at in a few steps. What a delivery costs is what the kernel takes for a read and a write, 1 to 8 us.

    python -m headwater.testing.load.delivery --port 1883 --shape fan-out --many 1000 --qos 1 --window 20 --seconds 10
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headwater.testing.load import wire
from headwater.testing.load.arrivals import FILES_SPARE, Connection, connect_all, raise_file_limit
from headwater.testing.load.latency import STEP_S, STEPS, Latencies
from headwater.testing.load.wire import Credentials, read_credentials

SHAPES = ("fan-in", "fan-out", "pairs")
SUBSCRIBE_S = 30.0
STALL_S = 1.0
"""Nothing of a publisher has arrived for so long: what was under way is given up, and it goes on. No broker that has it
waits so long."""
GRACE_S = 10.0
"""For what is under way at the end; what has not come then is lost."""
STAMP = struct.Struct(">QII")
"""time.perf_counter_ns of the send, the publisher's number, its message's number"""
PAUSE_S = 0.000_2
"""Between two looks, so that what has come is taken together: a generator that looks all the time takes a whole core for one
message at a time, and the broker delivers no more for it."""
FILLER = bytes(84)
"""To 100 bytes, about what a device's message has."""
BODY_BYTES = STAMP.size + len(FILLER)
READ_BYTES = 256 * 1024
_STEP_NS = round(STEP_S * 1e9)


@dataclass(frozen=True, slots=True)
class Delivery:
    """many  publishers of a fan-in, subscribers of a fan-out, pairs"""

    host: str
    port: int
    shape: str
    many: int
    qos: int = 0
    window: int = 10
    seconds: float = 10.0

    @property
    def connections(self) -> int:
        return 2 * self.many if self.shape == "pairs" else self.many + 1


@dataclass(slots=True)
class Delivered:
    """expected      deliveries: messages sent, times their subscribers
    out_of_turn   came again, or after a later one
    lost          connections that ended, or said something that is no part of this
    stalls        how often a publisher gave up what was under way
    seconds       from the first message to the last delivery
    cpu_s         of this process meanwhile: near `seconds`, and it measured itself
    latency_us    from a message's send to its delivery
    """

    connections: int = 0
    refused: int = 0
    lost: int = 0
    sent: int = 0
    expected: int = 0
    delivered: int = 0
    out_of_turn: int = 0
    stalls: int = 0
    seconds: float = 0.0
    delivered_per_s: float = 0.0
    cpu_s: float = 0.0
    latency_us: dict[str, float] = field(default_factory=dict)


def run(delivery: Delivery, credentials: list[Credentials] | None = None) -> Delivered:
    count = delivery.connections
    people = credentials or [Credentials(f"load-{i}") for i in range(count)]
    if len(people) < count:
        raise ValueError(f"{count} connections need as many credentials, there are {len(people)}")
    raise_file_limit(count + FILES_SPARE)
    # Nothing here is part of a cycle, and walking through the connections would look like a slow broker.
    gc.disable()
    up, refused = connect_all(delivery.host, delivery.port, people[:count])
    try:
        if refused:
            return Delivered(connections=len(up), refused=refused)
        return _Exchange(delivery, [arrival.connection for arrival in up]).run()
    finally:
        for arrival in up:
            arrival.connection.close()
        gc.enable()


# -- the two ends -----------------------------------------------------------------------------------------------------------


class _Peer:
    """unsent  what the socket did not take yet
    rest    the beginning of a packet
    """

    __slots__ = ("hear", "rest", "socket", "unsent")

    def __init__(self, connection: Connection) -> None:
        self.socket = connection
        self.hear: Callable[[bytes], bytes | None]
        """What has come -> what is to be sent; None = this is no part of it"""
        self.rest = b""
        self.unsent = b""


class _Publisher(_Peer):
    """acknowledged  PUBACK or PUBCOMP has come
    delivered     to all subscribers together
    received      PUBREC has come
    stirred_s     when one of its messages was delivered last
    turn          what it sends together at least: each alone would be a send
    written_off   deliveries that are not waited for any more
    """

    __slots__ = (
        "acknowledged", "audience", "delivered", "due", "heads", "number", "qos", "received", "sent", "stirred_s", "turn",
        "window", "written_off",
    )  # fmt: skip

    def __init__(self, connection: Connection, number: int, topic: str, audience: int, delivery: Delivery) -> None:
        super().__init__(connection)
        self.number = number
        self.qos = delivery.qos
        self.window = delivery.window
        self.turn = max(1, delivery.window // 2)
        self.audience = audience
        self.heads = wire.publish_heads(topic, delivery.qos, delivery.window, BODY_BYTES)
        self.due = {kind: wire.receipts_due(kind, delivery.window) for kind in (wire.PUBACK, wire.PUBREC, wire.PUBCOMP)}
        self.hear = self._hear_puback if delivery.qos == 1 else self._hear_pubrec if delivery.qos == 2 else _nothing
        self.sent = self.received = self.acknowledged = self.delivered = self.written_off = 0
        self.stirred_s = 0.0

    @property
    def room(self) -> int:
        arrived = min((self.delivered + self.written_off) // self.audience, self.acknowledged if self.qos else self.sent)
        return self.window - self.sent + arrived

    @property
    def missing(self) -> int:
        """Deliveries under way."""
        return self.sent * self.audience - self.delivered - self.written_off

    def messages(self, count: int, now_ns: int) -> bytes:
        first, sent, number, pack = self.sent % self.window, self.sent, self.number, STAMP.pack
        self.sent += count
        return b"".join([self.heads[first + i] + pack(now_ns, number, sent + i) + FILLER for i in range(count)])

    def _hear_puback(self, data: bytes) -> bytes | None:
        if self.rest:
            data = self.rest + data
        count, more = divmod(len(data), 4)
        if not self.due[wire.PUBACK].startswith(data[: 4 * count], 4 * (self.acknowledged % self.window)):
            return None
        self.acknowledged += count
        self.rest = data[4 * count :] if more else b""
        return b"" if self.acknowledged <= self.sent else None

    def _hear_pubrec(self, data: bytes) -> bytes | None:
        """PUBRECs, each answered by its PUBREL, and PUBCOMPs among them."""
        if self.rest:
            data = self.rest + data
        whole = len(data) & ~3
        received, completed, out = 0, 0, b""
        kinds = data[0:whole:4]
        if kinds.count(0x50) == len(kinds):
            received, records = len(kinds), data[:whole]
        else:
            records = b"".join([data[i : i + 4] for i in range(0, whole, 4) if data[i] == 0x50])
            completions = b"".join([data[i : i + 4] for i in range(0, whole, 4) if data[i] != 0x50])
            received, completed = len(records) // 4, len(completions) // 4
            if not self.due[wire.PUBCOMP].startswith(completions, 4 * (self.acknowledged % self.window)):
                return None
        if received:
            if not self.due[wire.PUBREC].startswith(records, 4 * (self.received % self.window)):
                return None
            out = _receipts(wire.PUBREL, received, records[2::4], records[3::4])
        self.received += received
        self.acknowledged += completed
        self.rest = data[whole:]
        return out if self.acknowledged <= self.received <= self.sent else None


class _Subscriber(_Peer):
    """publishers  those whom it hears, in the order of their numbers
    next        the number of the message that is due from each
    """

    __slots__ = ("_exchange", "_id", "_kind", "_records", "_size", "next", "publishers")

    def __init__(self, connection: Connection, publishers: list[_Publisher], exchange: _Exchange) -> None:
        super().__init__(connection)
        qos = publishers[0].qos
        head = publishers[0].heads[0]
        before = len(head)
        self.publishers = publishers
        self.next = [0] * len(publishers)
        self._exchange = exchange
        self._kind = head[0]
        self._size = before + BODY_BYTES
        self._id = before - 2
        self._records = struct.Struct(f">{before}xQII{len(FILLER)}x")
        self.hear = (self._hear_0, self._hear_1, self._hear_2)[qos]

    def _hear_0(self, data: bytes) -> bytes | None:
        if self.rest:
            data = self.rest + data
        count = len(data) // self._size
        whole = count * self._size
        self.rest = data[whole:]
        if data[0 : whole : self._size].count(self._kind) != count:
            return None
        return b"" if not count or self._take(data[:whole], count) else None

    def _hear_1(self, data: bytes) -> bytes | None:
        if self.rest:
            data = self.rest + data
        size, at = self._size, self._id
        count = len(data) // size
        whole = count * size
        self.rest = data[whole:]
        if data[0:whole:size].count(self._kind) != count:
            return None
        if not count:
            return b""
        if not self._take(data[:whole], count):
            return None
        return _receipts(wire.PUBACK, count, data[at:whole:size], data[at + 1 : whole : size])

    def _hear_2(self, data: bytes) -> bytes | None:
        """PUBLISHes, each answered by its PUBREC, and PUBRELs among them, each by its PUBCOMP."""
        if self.rest:
            data = self.rest + data
        size, at, kind, end = self._size, self._id, self._kind, len(data)
        messages, out, i = [], [], 0
        while i < end:
            if data[i] == kind:
                if i + size > end:
                    break
                messages.append(data[i : i + size])
                out.append(wire.PUBREC + data[i + at : i + at + 2])
                i += size
            elif data[i] == 0x62:
                if i + 4 > end:
                    break
                out.append(wire.PUBCOMP + data[i + 2 : i + 4])
                i += 4
            else:
                return None
        self.rest = data[i:]
        if messages and not self._take(b"".join(messages), len(messages)):
            return None
        return b"".join(out)

    def _take(self, packets: bytes, count: int) -> bool:
        """Whole PUBLISHes. False where one of them is not ours."""
        now_ns = time.perf_counter_ns()
        if len(self.publishers) > 1:
            return self._take_of_many(packets, now_ns)
        publisher = self.publishers[0]
        first_ns, whose, number = self._records.unpack_from(packets)
        last_ns, of_last, last = self._records.unpack_from(packets, (count - 1) * self._size)
        due = self.next[0]
        if number != due or last != due + count - 1 or first_ns != last_ns or whose != publisher.number != of_last:
            return self._take_of_many(packets, now_ns)
        self.next[0] = due + count
        publisher.delivered += count
        publisher.stirred_s = now_ns / 1e9
        self._exchange.arrived(publisher, count, now_ns, now_ns - first_ns)
        return True

    def _take_of_many(self, packets: bytes, now_ns: int) -> bool:
        """One by one: from several publishers, or sent at several times, or not what was due."""
        publishers, nexts, exchange = self.publishers, self.next, self._exchange
        first, counts, touched = publishers[0].number, exchange.latencies.counts, exchange.touched
        slowest_ns = 0
        for sent_ns, whose, number in self._records.iter_unpack(packets):
            which = whose - first
            if not 0 <= which < len(publishers):
                return False
            if number >= nexts[which]:
                nexts[which] = number + 1
            else:
                exchange.result.out_of_turn += 1
            publisher = publishers[which]
            publisher.delivered += 1
            publisher.stirred_s = now_ns / 1e9
            touched.add(publisher)
            latency_ns = now_ns - sent_ns
            slowest_ns = max(slowest_ns, latency_ns)
            step = latency_ns // _STEP_NS
            counts[step if step < STEPS else STEPS] += 1
        exchange.arrived_many(len(packets) // self._size, now_ns, slowest_ns)
        return True


def _nothing(_: bytes) -> bytes | None:
    """A publisher at QoS 0 is told nothing."""
    return None


def _receipts(kind: bytes, count: int, high: bytes, low: bytes) -> bytes:
    """One for each packet identifier, of which these are the bytes."""
    out = bytearray(kind + b"\0\0") * count
    out[2::4] = high
    out[3::4] = low
    return bytes(out)


# -- the exchange -----------------------------------------------------------------------------------------------------------


class _Exchange:
    """The messages of one run."""

    def __init__(self, delivery: Delivery, connections: list[Connection]) -> None:
        self._delivery = delivery
        self.result = Delivered(connections=len(connections))
        self.latencies = Latencies()
        self.touched: set[_Publisher] = set()
        """publishers that may have room again"""
        self._last_ns = 0
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(READ_BYTES))
        """One for all: a new one of this size for each read would cost more than the read."""
        self._publishers, self._subscribers = self._cast(connections)
        self._peers: dict[int, _Peer] = {peer.socket.fileno(): peer for peer in (*self._publishers, *self._subscribers)}

    def _cast(self, connections: list[Connection]) -> tuple[list[_Publisher], list[_Subscriber]]:
        delivery, many = self._delivery, self._delivery.many
        if delivery.shape == "fan-out":
            publishers = [_Publisher(connections[0], 0, _topic(0), many, delivery)]
            return publishers, [_Subscriber(one, publishers, self) for one in connections[1:]]
        publishers = [_Publisher(one, i, _topic(i), 1, delivery) for i, one in enumerate(connections[:many])]
        if delivery.shape == "fan-in":
            return publishers, [_Subscriber(connections[many], publishers, self)]
        return publishers, [_Subscriber(one, [publishers[i]], self) for i, one in enumerate(connections[many:])]

    def run(self) -> Delivered:
        result = self.result
        self._subscribe()
        for number in self._peers:
            self._poll.register(number, select.EPOLLIN)
        cpu, start_ns = time.process_time(), time.perf_counter_ns()
        self._last_ns = start_ns
        self._exchange(start_ns / 1e9 + self._delivery.seconds)
        self._wait_for_the_rest()
        result.sent = sum(publisher.sent for publisher in self._publishers)
        result.expected = sum(publisher.sent * publisher.audience for publisher in self._publishers)
        result.delivered = sum(publisher.delivered for publisher in self._publishers)
        result.seconds = (self._last_ns - start_ns) / 1e9
        result.delivered_per_s = result.delivered / max(result.seconds, 1e-9)
        result.cpu_s = round(time.process_time() - cpu, 3)
        result.latency_us = self.latencies.percentiles_us()
        self._poll.close()
        return result

    def _subscribe(self) -> None:
        """Raises ConnectionError where a subscription is not granted."""
        everything = self._delivery.shape == "fan-in"
        for subscriber in self._subscribers:
            topic_filter = "bench/+" if everything else _topic(subscriber.publishers[0].number)
            subscriber.socket.send(wire.subscribe(topic_filter, self._delivery.qos))
        for subscriber in self._subscribers:
            subscriber.socket.settimeout(SUBSCRIBE_S)
            suback = subscriber.socket.recv(5)
            if suback != b"\x90\x03\x00\x01" + bytes((self._delivery.qos,)):
                raise ConnectionError(f"a subscription was answered with {suback.hex() or 'the end of the connection'}")
            subscriber.socket.setblocking(False)

    def _exchange(self, end_s: float) -> None:
        self.touched.update(self._publishers)
        look_s = time.perf_counter() + STALL_S
        while self._peers and (now_s := time.perf_counter()) < end_s:
            self._send_where_there_is_room()
            time.sleep(PAUSE_S)
            self._hear(0.1)
            if now_s > look_s:
                look_s = now_s + STALL_S / 4
                self._give_up_what_stalls(now_s)

    def _wait_for_the_rest(self) -> None:
        give_up_s = time.perf_counter() + GRACE_S
        while any(p.missing > 0 or (p.qos and p.acknowledged < p.sent) for p in self._publishers):
            now_s = time.perf_counter()
            if now_s > give_up_s or not self._peers:
                return
            time.sleep(PAUSE_S)
            self._hear(0.1)

    def _give_up_what_stalls(self, now_s: float) -> None:
        for publisher in self._publishers:
            if publisher.missing > 0 and now_s - publisher.stirred_s > STALL_S:
                self.result.stalls += 1
                publisher.written_off += publisher.missing
                publisher.stirred_s = now_s
                self.touched.add(publisher)

    def _send_where_there_is_room(self) -> None:
        if not self.touched:
            return
        now_ns = time.perf_counter_ns()
        for publisher in self.touched:
            room = publisher.room
            if room >= publisher.turn and not publisher.unsent:
                if publisher.missing <= 0:
                    publisher.stirred_s = now_ns / 1e9
                self._write(publisher, publisher.messages(room, now_ns))
        self.touched.clear()

    def arrived(self, publisher: _Publisher, count: int, now_ns: int, latency_ns: int) -> None:
        self._last_ns = now_ns
        self.touched.add(publisher)
        self.latencies.add(latency_ns / 1e9, count)

    def arrived_many(self, count: int, now_ns: int, slowest_ns: int) -> None:
        self._last_ns = now_ns
        self.latencies.slowest_s = max(self.latencies.slowest_s, slowest_ns / 1e9)

    # -- sockets ------------------------------------------------------------------------------------------------------------

    def _hear(self, timeout_s: float) -> None:
        peers, buffer = self._peers, self._buffer
        for number, event in self._poll.poll(timeout_s, len(peers) + 1):
            peer = peers[number]
            if event & select.EPOLLOUT:
                self._go_on_sending(peer)
            if event == select.EPOLLOUT:
                continue
            try:
                count = peer.socket.recv_into(buffer)
            except OSError:
                count = 0
            data = bytes(buffer[:count])
            answer = peer.hear(data) if data else None
            if answer is None:
                self._lose(number)
                continue
            if answer:
                self._write(peer, answer)
            if type(peer) is _Publisher:
                self.touched.add(peer)

    def _write(self, peer: _Peer, data: bytes) -> None:
        if peer.unsent:
            peer.unsent += data
            return
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the poll says so, too
        if sent < len(data):
            peer.unsent = data[sent:]
            self._poll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)

    def _go_on_sending(self, peer: _Peer) -> None:
        data, peer.unsent = peer.unsent, b""
        self._poll.modify(peer.socket, select.EPOLLIN)
        self._write(peer, data)
        if type(peer) is _Publisher:
            self.touched.add(peer)

    def _lose(self, number: int) -> None:
        peer = self._peers.pop(number)
        self._poll.unregister(number)
        self.result.lost += 1
        if type(peer) is _Publisher:
            peer.window = 0


def _topic(number: int) -> str:
    """Of one length."""
    return f"bench/{number:06}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish as fast as a broker delivers.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--shape", choices=SHAPES, default="pairs")
    parser.add_argument("--many", type=int, default=100, help="publishers of a fan-in, subscribers of a fan-out, pairs")
    parser.add_argument("--qos", type=int, choices=(0, 1, 2), default=0)
    parser.add_argument("--window", type=int, default=10, help="messages under way of each publisher")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--credentials", type=Path, help="lines of: client_id username password")
    options = vars(parser.parse_args())
    path = options.pop("credentials")
    result = run(Delivery(**options), read_credentials(path) if path else None)
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()

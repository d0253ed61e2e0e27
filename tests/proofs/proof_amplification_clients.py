"""What hostile clients make agents spend, measured as in proof_amplification: at most ten times its worth."""

from __future__ import annotations

import os
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from random import Random

import pytest

from busmesh.policy.regex import longest_text
from tests.proofs.proof_amplification import MIB, Rows
from tests.proofs.usage import SEGMENT, Meter, Use
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh
from tests.support.processes import Process

USUAL = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/json;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nX-Request-Id: 0123456789abcdef\r\n"
)
GET = b"GET /now HTTP/1.1\r\nHost: store\r\n%b\r\n"
CHUNKED = b"POST /sha256 HTTP/1.1\r\nHost: store\r\nTransfer-Encoding: chunked\r\n\r\n"
CONNECTIONS = 200


@dataclass
class Store:
    """An application that streams, its agent, and a caller."""

    mesh: Mesh
    agent: Instance
    shop: Instance
    meter: Meter
    made: int = 0

    def fresh(self) -> tuple[Instance, Meter]:
        """Return a caller whose process has freed nothing yet that it could fill again."""
        self.made += 1
        shop = self.mesh.agent("shopper", f"shopper-{self.made}", "--upstreams", "store")
        exchange(shop, [GET % USUAL] * 20, Use())
        return shop, Meter({"agent": shop.agent.pid}, 2.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory = tmp_path_factory.mktemp("store")
    with ExitStack() as stack:
        bus = stack.enter_context(NatsServer(directory / "bus"))
        mesh = stack.enter_context(Mesh(directory, bus))
        app = stack.enter_context(
            Process.python("tests.support.streamer", directory=directory, name="streamer")
        )
        agent = mesh.agent("store", "store-0", application=app.ready()["url"])
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        exchange(shop, [GET % USUAL] * 200, Use())
        yield Store(mesh, agent, shop, Meter({"caller": shop.agent.pid, "instance": agent.agent.pid}))


def address_of(agent: Instance) -> tuple[str, int]:
    host, _, port = agent.outbound.rpartition(":")
    return host, int(port)


def exchange(agent: Instance, requests: Iterable[bytes], use: Use, *, count: int = 0) -> bytes:
    """Send requests over one connection, each when the last is answered; return the end of what came.

    ``count``: they are one request in so many messages.
    """
    with closing(socket.create_connection(address_of(agent), timeout=60)) as client:
        answer = b""
        for request in requests:
            use.add(len(request) + SEGMENT, 0 if count else 1)
            try:
                client.sendall(request)
            except ConnectionError:  # it was refused before it had ended
                break
            if not count:
                answer = receive(client)
        use.count += count
        if count:
            with suppress(ConnectionError):
                answer = receive(client)
        return answer


def receive(client: socket.socket) -> bytes:
    """Return one response of declared length; what there is if the connection ends."""
    answer = b""
    while True:
        head, blank, body = answer.partition(b"\r\n\r\n")
        if blank:
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if len(body) >= int(length or 0):
                return answer
        try:
            data = client.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            return answer
        answer += data


def chunks(total: int, chunk: bytes) -> Iterator[bytes]:
    """Yield about ``total`` bytes of chunks, in writes of 64 KiB or so, and the end."""
    block = chunk * max(1, 65536 // len(chunk))
    for _ in range(max(1, total // len(block))):
        yield block
    yield b"0\r\n\r\n"


def upload(total: int, chunk: bytes) -> Iterator[bytes]:
    yield CHUNKED
    yield from chunks(total, chunk)


@pytest.mark.timeout(600)
def proof_of_t15_sizes(store: Store) -> None:
    rows = Rows()
    with store.meter.used() as small:
        exchange(store.shop, [GET % USUAL] * 1500, small)
    with store.meter.used() as bulk:
        for _ in range(4):
            exchange(store.shop, upload(32 * MIB, b"4000\r\n" + b"x" * 0x4000 + b"\r\n"), bulk, count=1)
    for what, ordinary, messages in (
        ("99 headers of a letter", small, [GET % (b"a:b\r\n" * 98)] * 1000),
        ("99 headers without a value", small, [GET % (b"a:\r\n" * 98)] * 1000),
        ("one header of 60 KiB", small, [GET % (b"X-A: %b\r\n" % (b"a" * 60_000))] * 200),
        ("99 headers of 600 bytes", small, [GET % (b"X-A: %b\r\n" % (b"a" * 600) * 98)] * 200),
        (
            "a target of 60 KiB",
            small,
            [b"GET /now?%b HTTP/1.1\r\nHost: store\r\n\r\n" % (b"a&" * 30_000)] * 200,
        ),
    ):
        with store.meter.used() as use:
            assert exchange(store.shop, messages, use).startswith(b"HTTP/1.1 200"), what
        for where in ("caller", "instance"):
            rows.add(what, where, ordinary, use)
    with store.meter.used() as use:
        for lines in (b"X-A: %b\r\n" % (b"a" * MIB), b"a:b\r\n" * 200_000, b"a" * MIB):
            for _ in range(10):
                assert exchange(store.shop, [GET % lines], use)[:12] in (
                    b"HTTP/1.1 431",
                    b"HTTP/1.1 400",
                    b"",
                )
    rows.add("a megabyte of headers, refused", "caller", small, use)
    for what, total, chunk in (
        ("a gigabyte in chunks of 64 KiB", 1024 * MIB, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
        ("chunks of 256 bytes", 32 * MIB, b"100\r\n" + b"x" * 256 + b"\r\n"),
        ("chunks of a byte", 4 * MIB, b"1\r\nx\r\n"),
        ("chunks of a byte with a kilobyte of extensions", 32 * MIB, b"1;%b\r\nx\r\n" % (b"a" * 1000)),
    ):
        with store.meter.used() as use:
            exchange(store.shop, upload(total, chunk), use, count=1)
        for where in ("caller", "instance"):
            rows.add(what, where, bulk, use)
            assert use.grown[where] <= 32 * MIB, what
    with store.meter.used() as use:
        for _ in range(100):
            exchange(store.shop, [CHUNKED + b"1\r\nx\r\n0\r\n%b\r\n" % (b"a:b\r\n" * 12_000)], use)
    rows.add("60 KiB of trailers", "caller", small, use)
    print(rows)
    assert rows.above == []


@contextmanager
def application(response: Iterable[bytes]) -> Iterator[str]:
    """Serve one response to whoever asks for something, over one connection after the other."""
    pieces = list(response)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with closing(client), suppress(OSError):
                        if client.recv(65536):  # a health check says nothing
                            for piece in pieces:
                                client.sendall(piece)
                            client.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(300)
def proof_of_t15_responses(store: Store) -> None:
    """The same from applications, read as fast as they come."""
    rows, uses = Rows(), []
    for total, chunk in (
        (64 * MIB, b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
        (4 * MIB, b"1\r\nx\r\n"),
    ):
        pieces = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks(total, chunk)]
        name = f"large-{len(uses)}"
        with application(pieces) as url:
            agent = store.mesh.agent(name, f"{name}-0", application=url)
            meter = Meter({"instance": agent.agent.pid}, 2.0)
            with meter.used() as use, closing(socket.create_connection(address_of(store.shop))) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % name.encode())
                while client.recv(1 << 20):
                    pass
                use.add(sum(map(len, pieces)))
            agent.agent.terminate()
        uses.append(use)
    rows.add("a response in chunks of a byte", "instance", *uses)
    print(rows)
    assert rows.above == []


@pytest.mark.timeout(300)
def proof_of_t17_decompression_bombs(store: Store) -> None:
    """Ten megabytes of compressed zeros, which are ten gigabytes: bytes like any others."""
    rows = Rows()
    packer = zlib.compressobj(9)
    bomb = b"".join([*(packer.compress(bytes(16 * MIB)) for _ in range(640)), packer.flush()])
    head = b"POST /%b HTTP/1.1\r\nHost: store\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
    for path in (b"sha256", b"echo"):
        with store.meter.used() as plain:
            for _ in range(3):
                exchange(store.shop, [head % (path, len(bomb)), os.urandom(len(bomb))], plain, count=1)
        with store.meter.used() as use:
            for _ in range(3):
                exchange(store.shop, [head % (path, len(bomb)), bomb], use, count=1)
        for where in ("caller", "instance"):
            rows.add(
                f"{len(bomb) / MIB:.0f} MiB that unfold to 10 GiB, to /{path.decode()}", where, plain, use
            )
            assert use.grown[where] <= 32 * MIB
    print(rows)
    assert rows.above == []


@contextmanager
def connections(agent: Instance, number: int, use: Use, **options: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            client = stack.enter_context(closing(socket.socket()))
            if "rcvbuf" in options:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["rcvbuf"])
            client.connect(address_of(agent))
            client.settimeout(30)
            use.add(3 * SEGMENT)
            opened.append(client)
        yield opened


def trickle(clients: list[socket.socket], byte: bytes, seconds: float, use: Use) -> None:
    """Send a byte on each connection, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(byte)
            use.size += 1 + SEGMENT
        time.sleep(0.2)


@pytest.mark.timeout(600)
def proof_of_t16_slow_clients(store: Store) -> None:
    """Connections that are slow, beside as many that have asked once and stay open, as every client's do.

    A connection holds memory because it is there; so what a slow one holds is compared with what an honest
    one holds at rest, and what came on it. For who does not read, honest is who reads the same at once.
    """
    rows = Rows()
    shop, meter = store.fresh()
    with meter.used() as rest, connections(shop, CONNECTIONS, rest) as clients:
        for client in clients:
            client.sendall(GET % USUAL)
            rest.size += len(GET % USUAL) + SEGMENT
            receive(client)
        time.sleep(3)
    print(
        f"an honest connection at rest: {rest.grown['agent'] // CONNECTIONS} bytes, "
        f"{1e6 * rest.per_message('agent'):.0f} us for its request"
    )
    post = b"POST /sha256 HTTP/1.1\r\nHost: store\r\nContent-Length: 100000\r\n\r\nabc"
    for what, first, byte in (
        ("half a line of a head", b"GET / HTTP/1.1\r\nHost: store\r\nX-A: a", b"a"),
        (
            "95 short lines of a head",
            b"GET / HTTP/1.1\r\nHost: store\r\n" + b"a:b\r\n" * 95 + b"X-A: a",
            b"a",
        ),
        ("60 KiB of a head", b"GET / HTTP/1.1\r\nHost: store\r\nX-A: " + b"a" * 60_000, b"a"),
        ("a body, byte by byte", post, b"x"),
        ("a body in chunks, byte by byte", CHUNKED, b"1\r\nx\r\n"),
        ("nothing at all", b"", b""),
    ):
        shop, meter = store.fresh()
        with meter.used() as use, connections(shop, CONNECTIONS, use) as clients:
            for client in clients:
                client.sendall(first)
                use.size += len(first) + SEGMENT
            if byte:
                trickle(clients, byte, 3, use)
            else:
                time.sleep(3)
        held = use.grown["agent"] // CONNECTIONS
        print(f"{what}: {use.size // CONNECTIONS} bytes came on each, {held} held")
        rows.add(f"slow: {what}", "agent", rest, use, rest.grown["agent"])
    reads: list[Use] = []
    for honest in (True, False):
        shop, meter = store.fresh()
        with meter.used() as use, connections(shop, CONNECTIONS, use, rcvbuf=4096) as clients:
            for client in clients:
                client.sendall(b"GET /bytes?n=300000 HTTP/1.1\r\nHost: store\r\n\r\n")
                use.size += 50 + SEGMENT
            readers = [threading.Thread(target=receive, args=(client,)) for client in clients if honest]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            time.sleep(3)
        print(
            f"downloads of 300,000 bytes, {'read' if honest else 'not read'}: "
            f"{use.grown['agent'] // CONNECTIONS} held for each"
        )
        reads.append(use)
    rows.add(
        "a response that nobody reads",
        "agent",
        reads[0],
        reads[1],
        reads[0].grown["agent"] + 300_000 * CONNECTIONS,
    )
    print(rows)
    assert rows.above == []


EVIL = [
    "(a+)+$", "(a*)*b", "(a|a)*b", "(a|aa)+$", "(.*a){20}", "([a-zA-Z]+)*$", "(a?){30}a{30}",
    "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y", "(.*)*$", "(a+){10}$", "((a+)+)+$", "(\\\\w+\\\\s?)*$",
    "(0|[1-9][0-9]*)*x", "(?:a+)+b", "(a|b|ab)*c", "(.+)+x", "(a{1,9}){1,9}$", "(\\\\d+)*\\\\.", "(a*)+$",
]  # fmt: skip
USUAL_PATTERNS = [f"api/v{number}/[a-z0-9-]+/items/[0-9]+(/.*)?" for number in range(20)]
#: The dearest found: nearly as large as one may be, and RE2 has to give up its states and walk through all.
DEAREST = [".*a.{100}b"]


def routes(patterns: list[str]) -> str:
    matches = "\n".join(
        f'  - match: [{{uri: {{regex: "/{pattern}"}}}}]\n    timeout: 3s\n'
        f"    route: [{{destination: {{host: store}}}}]"
        for pattern in patterns
    )
    return (
        "apiVersion: busmesh/v1\nkind: Route\nmetadata: {name: store}\nspec:\n  hosts: [store]\n  http:\n"
        f"{matches}\n  - route: [{{destination: {{host: store}}}}]\n"
    )


@pytest.mark.timeout(300)
def proof_of_t19_regular_expressions(store: Store) -> None:
    """Patterns and texts that take other engines for ever, beside as many that are in use everywhere.

    The texts are the same for both, so the figure by message is that by byte. The dearest pattern is one for
    which RE2 cannot keep its states; it looks at texts up to the length that `busmesh.policy.regex` allows.
    """
    rows, rng = Rows(), Random(1)
    looked_at = longest_text(f"/{DEAREST[0]}") - 1
    texts = [b"a" * 2400 + b"!", b"x" * 2400, b"0" * 2400, b"aA" * 1200, b"ab" * 4000, b"a" * 8000]
    texts += [bytes(rng.choice(b"ab") for _ in range(length)) for length in (looked_at, looked_at // 2, 8000)]
    for text in texts:
        request = b"GET /%b HTTP/1.1\r\nHost: store\r\n%b\r\n" % (text, USUAL)
        uses = []
        for patterns in (USUAL_PATTERNS, EVIL, USUAL_PATTERNS[:1], DEAREST):
            store.mesh.publish(routes(patterns))
            with store.meter.used() as use:
                assert exchange(store.shop, [request] * 300, use).startswith(b"HTTP/1.1 200")
            uses.append(use)
        name = f"{text[:2].decode()}... of {len(text)} bytes"
        print(f"{name}: {[round(1e6 * use.per_message('caller')) for use in uses]} us")
        rows.add(f"20 evil patterns, {name}", "caller", uses[0], uses[1])
        rows.add(f"the dearest pattern, {name}", "caller", uses[2], uses[3])
    print(rows)
    assert rows.above == []

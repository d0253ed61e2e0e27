"""What documents say about failures, slowness and splits, measured in a real mesh with real applications."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller, Result, at_rate
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.ports import free_port
from tests.support.processes import Process

FLEET = 4
SLOW = "fleet-0"


class Stage:
    """One mesh for all tests here: reviews in three versions, a fleet of equals, chains, and who calls."""

    def __init__(self, mesh: Mesh, urls: dict[str, str], outbounds: dict[str, str], broken: Broken) -> None:
        self.mesh = mesh
        self.urls = urls
        self.broken = broken
        for name, url in urls.items():
            service, _, version = name.rpartition("-")
            own = ("--outbound", outbounds[name]) if name in outbounds else ()
            labels = ("--labels", f"version={version}") if version.startswith("v") else ()
            mesh.agent(service, name, *own, *labels, application=url)
        mesh.agent("d", "d-0", application=broken.url)
        services = sorted({name.rpartition("-")[0] for name in urls})
        self.client: Instance = mesh.agent("shop", "shop-0", "--upstreams", ",".join(services))
        for service in ("reviews", "fleet", "p"):
            eventually(partial(self._answers, service), f"{service} answers")

    def _answers(self, service: str) -> bool:
        return self.call(service)[0] == 200

    def tell(self, name: str, **what: float) -> None:
        """Say what an application is to do, and forget what it saw."""
        words = "&".join(f"{key}={value}" for key, value in what.items())
        urllib.request.urlopen(f"{self.urls[name]}/stage?{words}", data=b"", timeout=5).close()

    def seen(self, name: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.urls[name]}/stage", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def call(self, service: str, path: str = "/", **headers: str) -> tuple[int, str, str]:
        """Return status, who answered, and the mesh's flags."""
        with closing(Caller(self.client.outbound, service)) as caller:
            status, body, back = caller.call(path, **headers)
        return status, (body or {}).get("name", ""), back.get("x-busmesh-flags", "")

    def calls(self, service: str, count: int, path: str = "/", **headers: str) -> Counter[str]:
        """Call so often in turn; count who answered, or status and flags of what nobody answered."""
        answered: Counter[str] = Counter()
        with closing(Caller(self.client.outbound, service)) as caller:
            for _ in range(count):
                status, body, back = caller.call(path, **headers)
                flags = back.get("x-busmesh-flags", "")
                answered[body["name"] if status == 200 else f"{status} {flags}".strip()] += 1
        return answered

    def at_once(self, service: str, count: int) -> list[tuple[int, str, str]]:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.call(service), range(count)))

    def held(self, service: str) -> dict[str, str]:
        """Return what is held against which instance of a service."""
        destinations = self.client.page("/breakers")["destinations"]
        [found] = [one for one in destinations if one["destination"] == f"{service}.default"]
        held: dict[str, str] = found["held"]
        return held


class Broken:
    """An application that reads a request and closes the connection: nobody knows what it did."""

    def __init__(self) -> None:
        self.requests = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._server.accept()
            except OSError:
                return
            with accepted:
                accepted.settimeout(5)
                try:
                    self.requests += bool(accepted.recv(65536))
                except OSError:
                    continue

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._server.close()


@contextmanager
def broken() -> Iterator[Broken]:
    made = Broken()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("resilience")
    outbounds = {name: f"127.0.0.1:{free_port()}" for name in ("b-0", "c-0", "p-0", "q-0")}
    following = {"b-0": "c", "c-0": "d", "p-0": "q", "q-0": "reviews"}
    alone = [*(f"reviews-v{n}" for n in (1, 2, 3)), *(f"fleet-{n}" for n in range(FLEET))]
    arguments = [
        *(f"{name}={outbounds[name]}/{service}" for name, service in following.items()),
        *(f"{name}=" for name in alone),
    ]
    with (
        broken() as made,
        NatsServer(folder / "bus") as bus,
        Process.python("tests.support.staged", *arguments, directory=folder, name="applications") as apps,
        Mesh(folder, bus) as mesh,
    ):
        yield Stage(mesh, apps.ready()["urls"], outbounds, made)


@pytest.fixture
def stage(whole: Stage) -> Stage:
    """The mesh without documents, and with applications that answer at once."""
    if whole.mesh.run("policy", "list", "-o", "json").stdout.strip():
        whole.mesh.run("policy", "rollback", "0", "--wait", "10s")
    for name in whole.urls:
        whole.tell(name)
    return whole


def virtual_service(host: str, http: str) -> str:
    head = f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {host}\n"
    return f"{head}spec:\n  hosts:\n  - {host}\n  http:\n{http}"


def destination_rule(host: str, spec: str) -> str:
    head = f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {host}\n"
    return f"{head}spec:\n  host: {host}\n{spec}"


def destination(host: str, policy: str) -> str:
    head = f"apiVersion: busmesh/v1\nkind: Destination\nmetadata: {{name: {host}}}\n"
    return f"{head}spec:\n  host: {host}\n  trafficPolicy: {{{policy}}}\n"


SUBSETS = destination_rule(
    "reviews",
    """\
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
  - name: v3
    labels:
      version: v3
""",
)

# -- splits ----------------------------------------------------------------------------------------

SPLIT = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - name: halves
    splitBy: {header: x-user}
    route:
    - {destination: {host: reviews, subset: v1}, weight: 70}
    - {destination: {host: reviews, subset: v3}, weight: 30}
"""


def test_a_split_of_70_to_30_holds_within_one_percent_over_500(stage: Stage) -> None:
    stage.mesh.publish(SPLIT)
    answered = stage.calls("reviews", 500)
    assert answered.keys() == {"reviews-v1", "reviews-v3"}, answered
    assert abs(answered["reviews-v1"] / 500 - 0.70) <= 0.01, answered


def test_a_user_is_always_on_the_same_side(stage: Stage) -> None:
    stage.mesh.publish(SPLIT)
    sides = {f"user-{n}": stage.calls("reviews", 5, x_user=f"user-{n}") for n in range(60)}
    assert all(len(answered) == 1 for answered in sides.values()), sides
    before = {user: next(iter(answered)) for user, answered in sides.items()}
    assert set(before.values()) == {"reviews-v1", "reviews-v3"}

    other = stage.mesh.agent("batch", "batch-0", "--upstreams", "reviews")
    with closing(Caller(other.outbound, "reviews")) as caller:
        assert {user: caller.call("/", x_user=user)[1]["name"] for user in before} == before
    stage.mesh.publish(SPLIT.replace("70", "40").replace("30", "60"))
    after = {user: next(iter(stage.calls("reviews", 1, x_user=user))) for user in before}
    moved = {(before[user], after[user]) for user in before if before[user] != after[user]}
    assert moved == {("reviews-v1", "reviews-v3")}, "a canary that grows gives nobody back"


# -- a slow instance -------------------------------------------------------------------------------


TO_FLEET = 400


def p99(stage: Stage, balancer: str) -> tuple[float, int]:
    """Return the 99th percentile in seconds, and how many requests the slow instance got."""
    stage.mesh.publish(destination("fleet", f"loadBalancer: {{simple: {balancer}}}"))
    for n in range(FLEET):
        name = f"fleet-{n}"
        stage.tell(name, serial=1, delay=0.05 if name == SLOW else 0.005)
    results: list[Result] = asyncio.run(at_rate(stage.client.outbound, "fleet", rate=150, count=TO_FLEET))
    assert {result.status for result in results} == {200}
    took = sorted(result.seconds for result in results)
    return took[int(len(took) * 0.99) - 1], len(stage.seen(SLOW))


def test_an_instance_ten_times_slower_is_spared(stage: Stage) -> None:
    at_random, many = p99(stage, "RANDOM")
    even = TO_FLEET / FLEET
    assert abs(many - even) < 4 * even**0.5, "by chance it gets as many as any other"
    for balancer in ("LEAST_REQUEST", "PEAK_EWMA"):
        found, few = p99(stage, balancer)
        print(
            f"p99 {balancer} {found * 1000:.0f} ms of {at_random * 1000:.0f} ms, {few} of {even:g} requests"
        )
        assert found <= at_random / 2, balancer
        assert few < even / 2, balancer


# -- retries ---------------------------------------------------------------------------------------


def test_t24_retries_behind_three_hops_do_not_multiply(
    stage: Stage,
) -> None:
    offered = 250
    before = stage.broken.requests
    answered = stage.calls("b", offered)
    reached = stage.broken.requests - before
    print(f"{reached} of {offered} offered reached the failing application")
    assert sum(answered.values()) == offered
    assert {status.split()[0] for status in answered} <= {"502", "503"}, answered
    assert len(stage.seen("b-0")) <= 1.25 * offered
    assert 0.9 * offered <= reached <= 1.25 * offered


# -- breakers and ejection -------------------------------------------------------------------------

BREAKER = destination(
    "reviews",
    "breaker: {consecutiveFailures: 5, waitDurationInOpenState: 1s,"
    " permittedNumberOfCallsInHalfOpenState: 2}",
)


def reviews(stage: Stage, **what: float) -> None:
    for version in (1, 2, 3):
        stage.tell(f"reviews-v{version}", **what)


def reached(stage: Stage) -> int:
    return sum(len(stage.seen(f"reviews-v{version}")) for version in (1, 2, 3))


def is_half_open(stage: Stage) -> bool:
    destinations = stage.client.page("/breakers")["destinations"]
    return any(one["breaker"] == "half-open" for one in destinations)


def test_a_breaker_opens_after_five_failures_admits_its_probes_and_closes(stage: Stage) -> None:
    stage.mesh.publish(BREAKER)
    reviews(stage, status=503)
    assert stage.calls("reviews", 20) == {"503": 5, "503 UO": 15}
    assert reached(stage) == 5

    reviews(stage, status=503, delay=0.3)
    time.sleep(1.1)
    answers = stage.at_once("reviews", 12)
    assert Counter(flags for *_, flags in answers) == {"": 2, "UO": 10}, "two probes, and they fail"
    assert reached(stage) == 2

    reviews(stage, delay=0.3)
    time.sleep(1.1)
    answers = stage.at_once("reviews", 12)
    assert Counter(status for status, *_ in answers) == {200: 2, 503: 10}
    reviews(stage)
    assert sum(count for name, count in stage.calls("reviews", 20).items() if "reviews" in name) == 20


def eject(stage: Stage, cap: int, least: int, ill: int) -> None:
    """Have ``ill`` instances of the fleet answer 500, and see how many are ejected."""
    stage.mesh.publish(
        destination(
            "fleet",
            "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, interval: 60s,"
            f" maxEjectionPercent: {cap}, minHealthPercent: {least}}}",
        )
    )
    for n in range(ill):
        stage.tell(f"fleet-{n}", status=500)


def test_no_more_than_the_cap_is_ejected(stage: Stage) -> None:
    eject(stage, cap=50, least=0, ill=FLEET)
    answered = stage.calls("fleet", 60)
    assert answered == {"500": 60}
    assert list(stage.held("fleet").values()) == ["ejected"] * 2
    late = [len(stage.seen(f"fleet-{n}")) for n in range(FLEET)]
    stage.calls("fleet", 20)
    more = [len(stage.seen(f"fleet-{n}")) - before for n, before in enumerate(late)]
    assert sorted(more)[:2] == [0, 0], "the ejected get nothing"


def test_what_is_ejected_gets_nothing_and_the_others_all(stage: Stage) -> None:
    eject(stage, cap=100, least=0, ill=2)
    stage.calls("fleet", 30)
    assert stage.held("fleet") == {"fleet-0": "ejected", "fleet-1": "ejected"}
    assert stage.calls("fleet", 20).keys() == {"fleet-2", "fleet-3"}


def test_in_panic_ejections_are_disregarded(stage: Stage) -> None:
    eject(stage, cap=100, least=60, ill=2)
    stage.calls("fleet", 30)
    assert len(stage.held("fleet")) == 2
    answered = stage.calls("fleet", 40)
    assert answered["500"] == 20, "half of four is less than 60 %, so all four are asked in turn"


# -- deadlines -------------------------------------------------------------------------------------


def timed(host: str, timeout: str) -> str:
    return virtual_service(
        host, f"  - route:\n    - destination:\n        host: {host}\n    timeout: {timeout}\n"
    )


def test_a_deadline_is_kept_and_the_application_cancelled(stage: Stage) -> None:
    stage.mesh.publish(timed("reviews", "300ms"))
    late, cancelled = [], []
    for _ in range(10):
        reviews(stage, hang=1)
        began = time.monotonic()
        status, _, flags = stage.call("reviews")
        took = time.monotonic() - began
        assert (status, flags) == (504, "UT")
        late.append(took - 0.3)
        eventually(lambda: _noted(stage) is not None, "the application hears that nobody waits")
        note = _noted(stage)
        assert note is not None
        cancelled.append(note["gone"] - began - took)
    print(f"late by {max(late) * 1000:.1f} ms, cancelled after {max(cancelled) * 1000:.1f} ms at most")
    assert min(late) >= -0.002, "nobody is told of a timeout before it is one"
    assert max(late) <= bar(0.020), late
    assert max(cancelled) <= bar(0.050), cancelled


def _noted(stage: Stage) -> dict[str, Any] | None:
    notes = [note for version in (1, 2, 3) for note in stage.seen(f"reviews-v{version}")]
    return next((note for note in notes if "gone" in note), None)


def test_each_hop_gets_what_is_left(stage: Stage) -> None:
    """shop -> p -> q -> reviews: 600 ms for the first, of which the applications on the way use 400."""
    stage.mesh.publish(timed("p", "600ms"), timed("q", "5s"), timed("reviews", "5s"))
    stage.tell("p-0", delay=0.2)
    stage.tell("q-0", delay=0.2)
    reviews(stage, hang=1)
    began = time.monotonic()
    assert stage.call("p")[0] == 504
    took = time.monotonic() - began
    eventually(lambda: _noted(stage) is not None, "the last application hears that nobody waits")
    note = _noted(stage)
    assert note is not None
    left = note["gone"] - note["at"]
    print(f"600 ms: caller {took * 1000:.0f} ms; the last hop had {left * 1000:.0f} ms")
    assert abs(took - 0.6) <= bar(0.020)
    assert abs(note["gone"] - began - 0.6) <= bar(0.050)
    assert left <= 0.2 + bar(0.050), "not the 5 s of its own route"


# -- faults ----------------------------------------------------------------------------------------


def test_ten_percent_are_aborted_and_none_outside_the_match(stage: Stage) -> None:
    stage.mesh.publish(
        virtual_service(
            "reviews",
            """\
  - match:
    - headers:
        x-chaos:
          exact: "on"
    fault:
      abort:
        httpStatus: 418
        percentage:
          value: 10
    route:
    - destination:
        host: reviews
  - route:
    - destination:
        host: reviews
""",
        )
    )
    # Of 2,000 draws the share is further than 2 % off once in 350 times, of 4,000 once in 40,000.
    answered = stage.calls("reviews", 4000, x_chaos="on")
    print(f"{answered['418 FI']} of 4000 aborted")
    assert abs(answered["418 FI"] / 4000 - 0.10) <= 0.02
    assert reached(stage) == 4000 - answered["418 FI"], "what is aborted reaches nobody"
    assert "418 FI" not in stage.calls("reviews", 500)


def test_a_delay_of_100_ms(stage: Stage) -> None:
    stage.mesh.publish(
        virtual_service(
            "reviews",
            """\
  - match:
    - uri:
        prefix: /slow
    fault:
      delay:
        fixedDelay: 100ms
        percentage:
          value: 100
    route:
    - destination:
        host: reviews
  - route:
    - destination:
        host: reviews
""",
        )
    )
    caller = Caller(stage.client.outbound, "reviews")

    def took(path: str) -> list[float]:
        found = []
        for _ in range(30):
            began = time.monotonic()
            assert caller.call(path)[0] == 200
            found.append(time.monotonic() - began)
        return found

    usual = sorted(took("/"))
    delayed = took("/slow/1")
    caller.close()
    by = sorted(seconds - usual[len(usual) // 2] for seconds in delayed)
    print(f"delayed by {by[0] * 1000:.1f} to {by[-1] * 1000:.1f} ms, else {usual[-1] * 1000:.1f} ms at most")
    assert abs(by[len(by) // 2] - 0.1) <= 0.010
    assert by[0] >= 0.1 - bar(0.010)
    assert by[-1] <= 0.1 + bar(0.010)
    assert usual[len(usual) // 2] < 0.05


# -- as Istio writes it ----------------------------------------------------------------------------


def test_istio_routes_by_the_end_users_header(stage: Stage) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            """\
  - match:
    - headers:
        end-user:
          exact: jason
    route:
    - destination:
        host: reviews
        subset: v2
  - route:
    - destination:
        host: reviews
        subset: v1
""",
        ),
    )
    assert stage.calls("reviews", 20, end_user="jason") == {"reviews-v2": 20}
    assert stage.calls("reviews", 20, end_user="jasonx") == {"reviews-v1": 20}
    assert stage.calls("reviews", 20) == {"reviews-v1": 20}


def test_istio_shifts_traffic_by_weight(stage: Stage) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            """\
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 50
    - destination:
        host: reviews
        subset: v3
      weight: 50
""",
        ),
    )
    answered = stage.calls("reviews", 200)
    assert answered.keys() == {"reviews-v1", "reviews-v3"}
    assert abs(answered["reviews-v1"] - 100) <= 2, answered


def test_istio_injects_a_delay_and_an_abort_for_one_user(stage: Stage) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            """\
  - match:
    - headers:
        end-user:
          exact: jason
    fault:
      delay:
        percentage:
          value: 100.0
        fixedDelay: 1s
    route:
    - destination:
        host: reviews
        subset: v1
  - match:
    - headers:
        end-user:
          exact: ana
    fault:
      abort:
        percentage:
          value: 100.0
        httpStatus: 500
    route:
    - destination:
        host: reviews
        subset: v1
  - route:
    - destination:
        host: reviews
        subset: v1
""",
        ),
    )
    began = time.monotonic()
    assert stage.call("reviews", end_user="jason")[:2] == (200, "reviews-v1")
    assert time.monotonic() - began >= 1.0
    assert stage.call("reviews", end_user="ana") == (500, "", "FI")
    assert stage.calls("reviews", 10) == {"reviews-v1": 10}


def test_istio_times_out_after_half_a_second(stage: Stage) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            """\
  - route:
    - destination:
        host: reviews
        subset: v2
    timeout: 0.5s
""",
        ),
    )
    stage.tell("reviews-v2", delay=2)
    began = time.monotonic()
    assert stage.call("reviews") == (504, "", "UT")
    assert abs(time.monotonic() - began - 0.5) <= bar(0.020)


def test_istio_retries_as_often_as_it_says(stage: Stage) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            """\
  - route:
    - destination:
        host: reviews
        subset: v1
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: gateway-error,connect-failure,refused-stream
""",
        ),
    )
    stage.tell("reviews-v1", status=503)
    assert stage.call("reviews")[0] == 503
    assert len(stage.seen("reviews-v1")) == 4, "the first try and three more"
    stage.tell("reviews-v1", status=500)
    assert stage.call("reviews")[0] == 500
    assert len(stage.seen("reviews-v1")) == 1, "500 is no gateway error"


@pytest.mark.parametrize(("percentage", "copies"), [(100.0, range(200, 201)), (25.0, range(25, 76))])
def test_istio_mirrors_and_says_so_in_the_host(stage: Stage, percentage: float, copies: range) -> None:
    stage.mesh.publish(
        SUBSETS,
        virtual_service(
            "reviews",
            f"""\
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 100
    mirror:
      host: reviews
      subset: v2
    mirrorPercentage:
      value: {percentage}
""",
        ),
    )
    stage.tell("reviews-v2", status=500)
    assert stage.calls("reviews", 200) == {"reviews-v1": 200}, "what a copy is answered is thrown away"
    eventually(lambda: len(stage.seen("reviews-v2")) >= copies.start, "the copies arrive")
    notes = stage.seen("reviews-v2")
    assert len(notes) in copies
    assert all(note["headers"]["host"].split(":")[0].endswith("-shadow") for note in notes), notes[:1]


CIRCUIT_BREAKING = """\
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 1
      http:
        http1MaxPendingRequests: 1
        maxRequestsPerConnection: 1
    outlierDetection:
      consecutive5xxErrors: 1
      interval: 1s
      baseEjectionTime: 3m
      maxEjectionPercent: 100
"""


def test_istio_breaks_the_circuit(stage: Stage) -> None:
    stage.mesh.publish(destination_rule("reviews", CIRCUIT_BREAKING))
    reviews(stage, delay=0.4)
    answers = stage.at_once("reviews", 3)
    assert Counter((status, flags) for status, _, flags in answers) == {(200, ""): 2, (503, "UO"): 1}
    reviews(stage, status=500)
    assert stage.calls("reviews", 3) == {"500": 3}, "each is ejected for its one 5xx"
    assert len(stage.held("reviews")) == 3
    assert set(stage.calls("reviews", 3)) == {"503 UH"}

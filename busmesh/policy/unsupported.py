"""What Istio knows and busmesh does not yet, each with a code of its own.

Such a field is refused. Taking a document and leaving out its CORS policy or its delegate would be a
document that says one thing and a mesh that does another.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from busmesh.policy.authentication import RequestAuthenticationSpec
from busmesh.policy.authorization import AuthorizationPolicySpec, Operation, Source
from busmesh.policy.destination import DestinationSpec, TrafficPolicy
from busmesh.policy.faults import Abort, Delay
from busmesh.policy.fields import Model
from busmesh.policy.loadbalancer import LoadBalancer
from busmesh.policy.outliers import Outliers
from busmesh.policy.ratelimit import LimitMatch
from busmesh.policy.resilience import HttpSettings, TcpSettings
from busmesh.policy.route import (
    DestinationRef,
    HttpRule,
    RequestMatch,
    RouteMatch,
    RouteSpec,
    VirtualServiceSpec,
)

_ONE_ADDRESS = "an instance has one application address: remove it"
_NO_CONNECTIONS = "there are no connections between agents: remove it"
_NO_ADDRESSES = "between agents there are no addresses: use principals or namespaces"
_NO_GATEWAYS = "there are no gateways: use selector"
_EVERYWHERE = "documents hold for the whole mesh: remove it"

#: Model -> field -> (code, hint). A subclass has the fields of its base.
NOT_YET: Mapping[type[Model], Mapping[str, tuple[str, str]]] = {
    HttpRule: {
        "corsPolicy": ("BM1307", ""),
        "delegate": ("BM1308", ""),
    },
    RouteSpec: {
        "tcp": ("BM1309", ""),
        "tls": ("BM1310", ""),
        "gateways": ("BM1311", "a Route holds inside the mesh: remove it"),
        "exportTo": ("BM1312", _EVERYWHERE),
    },
    VirtualServiceSpec: {
        "tcp": ("BM1309", ""),
        "tls": ("BM1310", ""),
        "exportTo": ("BM1312", _EVERYWHERE),
    },
    RequestMatch: {
        "port": ("BM1315", _ONE_ADDRESS),
        "statPrefix": ("BM1316", "use name"),
    },
    Delay: {"exponentialDelay": ("BM1361", "use fixedDelay")},
    Abort: {
        "grpcStatus": ("BM1362", "use httpStatus"),
        "http2Error": ("BM1363", "use httpStatus"),
    },
    LimitMatch: {
        "sourceLabels": ("BM1358", "who receives knows the service that calls: use caller"),
        "scheme": ("BM1313", "inside the mesh every request is http: remove it"),
    },
    RouteMatch: {"gateways": ("BM1311", "a Route holds inside the mesh: remove it")},
    DestinationRef: {"port": ("BM1315", _ONE_ADDRESS)},
    TrafficPolicy: {
        "tls": ("BM1332", "every hop of the mesh is sealed already: remove it"),
        "portLevelSettings": ("BM1315", _ONE_ADDRESS),
        "tunnel": ("BM1333", ""),
        "proxyProtocol": ("BM1334", ""),
    },
    Outliers: {"consecutiveErrors": ("BM1330", "write consecutiveGatewayErrors or consecutive5xxErrors")},
    TcpSettings: {
        "tcpKeepalive": ("BM1331", _NO_CONNECTIONS),
        "maxConnectionDuration": ("BM1331", _NO_CONNECTIONS),
        "idleTimeout": ("BM1331", _NO_CONNECTIONS),
    },
    HttpSettings: {
        "idleTimeout": ("BM1331", _NO_CONNECTIONS),
        "h2UpgradePolicy": ("BM1331", _NO_CONNECTIONS),
        "useClientProtocol": ("BM1331", _NO_CONNECTIONS),
        "maxConcurrentStreams": ("BM1331", _NO_CONNECTIONS),
    },
    LoadBalancer: {"zoneAwareLbSetting": ("BM1337", "use localityLbSetting")},
    DestinationSpec: {
        "exportTo": ("BM1312", _EVERYWHERE),
        "workloadSelector": ("BM1339", "a Destination holds for every caller: remove it"),
    },
    Source: {
        "ipBlocks": ("BM1370", _NO_ADDRESSES),
        "notIpBlocks": ("BM1370", _NO_ADDRESSES),
        "remoteIpBlocks": ("BM1370", _NO_ADDRESSES),
        "notRemoteIpBlocks": ("BM1370", _NO_ADDRESSES),
        "trustDomains": ("BM1375", "there is one: the mesh"),
        "notTrustDomains": ("BM1375", "there is one: the mesh"),
    },
    Operation: {"ports": ("BM1315", _ONE_ADDRESS), "notPorts": ("BM1315", _ONE_ADDRESS)},
    AuthorizationPolicySpec: {
        "targetRef": ("BM1376", _NO_GATEWAYS),
        "targetRefs": ("BM1376", _NO_GATEWAYS),
        "provider": ("BM1373", "use ALLOW or DENY"),
    },
    RequestAuthenticationSpec: {
        "targetRef": ("BM1376", _NO_GATEWAYS),
        "targetRefs": ("BM1376", _NO_GATEWAYS),
    },
}

#: (apiVersion's group, kind) -> code.
KINDS_NOT_YET: Mapping[tuple[str, str], str] = {
    ("busmesh", "Telemetry"): "BM1352",
    ("busmesh", "Rollout"): "BM1353",
    ("security.istio.io", "PeerAuthentication"): "BM1354",
    ("telemetry.istio.io", "Telemetry"): "BM1352",
    ("networking.istio.io", "Gateway"): "BM1311",
    ("networking.istio.io", "ServiceEntry"): "BM1355",
    ("networking.istio.io", "Sidecar"): "BM1356",
    ("networking.istio.io", "WorkloadEntry"): "BM1355",
    ("networking.istio.io", "WorkloadGroup"): "BM1355",
    ("networking.istio.io", "EnvoyFilter"): "BM1357",
    ("networking.istio.io", "ProxyConfig"): "BM1357",
    ("extensions.istio.io", "WasmPlugin"): "BM1357",
}


def field_not_yet(model: type[BaseModel], field: str) -> tuple[str, str, str] | None:
    """Return (code, message, hint) if ``field`` is one that Istio has in place of this model."""
    for base in model.__mro__:
        if (refusal := NOT_YET.get(base, {}).get(field)) is not None:
            code, hint = refusal
            return code, f"{field} is not supported yet", hint or "remove it"
    return None

"""The spec of an Authorization, and of Istio's AuthorizationPolicy, whose fields it shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from busmesh.policy.authfields import (
    Account,
    ConditionKey,
    Method,
    PathPattern,
    Patterns,
    Principal,
    Selector,
)
from busmesh.policy.fields import Host, Many, Model, Some, refused

#: Patterns that may be absent; where they stand there is at least one.
_NONE: tuple[str, ...] = ()


class _OneOf(Model):
    """Something that says nothing is a mistake: it would hold for everything."""

    @model_validator(mode="after")
    def _not_empty(self) -> _OneOf:
        if not self.model_fields_set:
            raise refused("BM1220", "this is empty", "say what must hold, or remove it")
        return self


class Source(_OneOf):
    """Who calls. All fields must hold, and of each one entry."""

    principals: Some[Principal] = Field(
        _NONE, description="MESH/ns/NAMESPACE/svc/SERVICE, or Istio's cluster.local/ns/NAMESPACE/sa/SERVICE."
    )
    not_principals: Some[Principal] = Field(_NONE, alias="notPrincipals")
    request_principals: Patterns = Field(
        _NONE, alias="requestPrincipals", description="ISSUER/SUBJECT of a verified token; * for any token."
    )
    not_request_principals: Patterns = Field(_NONE, alias="notRequestPrincipals")
    namespaces: Patterns = Field(_NONE, description="Of the calling service.")
    not_namespaces: Patterns = Field(_NONE, alias="notNamespaces")
    service_accounts: Some[Account] = Field(
        _NONE, alias="serviceAccounts", description="SERVICE or NAMESPACE/SERVICE; no patterns."
    )
    not_service_accounts: Some[Account] = Field(_NONE, alias="notServiceAccounts")

    @model_validator(mode="after")
    def _one_way(self) -> Source:
        accounts = self.service_accounts or self.not_service_accounts
        others = self.principals or self.not_principals or self.namespaces or self.not_namespaces
        if accounts and others:
            raise refused("BM1255", "serviceAccounts stand alone, without principals and namespaces")
        return self


class Operation(_OneOf):
    """What is asked. All fields must hold, and of each one entry."""

    hosts: Patterns = Field(_NONE, description="The Host header, in any case; with a port only if written.")
    not_hosts: Patterns = Field(_NONE, alias="notHosts")
    methods: Some[Method] = _NONE
    not_methods: Some[Method] = Field(_NONE, alias="notMethods")
    paths: Some[PathPattern] = Field(_NONE, description="Without the query, read in every way.")
    not_paths: Some[PathPattern] = Field(_NONE, alias="notPaths")


class From(Model):
    """Istio wraps each source."""

    source: Source


class To(Model):
    """Istio wraps each operation."""

    operation: Operation


class When(Model):
    """A condition on something else; both fields must hold if both stand there."""

    key: ConditionKey
    values: Patterns = Field(_NONE, description="One of them.")
    not_values: Patterns = Field(_NONE, alias="notValues", description="None of them; absent is none.")

    @model_validator(mode="after")
    def _some_value(self) -> When:
        if not self.values and not self.not_values:
            raise refused("BM1256", "neither values nor notValues")
        return self


class AccessRule(Model):
    """Some source, some operation and all conditions; {} holds for every request."""

    sources: Some[From] = Field((), alias="from")
    operations: Some[To] = Field((), alias="to")
    when: Many[When] = ()


def _not_custom(value: object) -> object:
    if value == "CUSTOM":
        raise refused("BM1373", "external authorization is not supported yet", "use ALLOW or DENY")
    return value


class AuthorizationPolicySpec(Model):
    """Which requests the instances serve."""

    selector: Selector | None = Field(None, description="Absent: every instance of the namespace.")
    action: Annotated[Literal["ALLOW", "DENY", "AUDIT"], BeforeValidator(_not_custom)] = Field(
        "ALLOW", description="DENY comes first; if an ALLOW is there, one must hold; AUDIT only counts."
    )
    rules: Many[AccessRule] = Field((), description="One must hold. None: nothing is allowed.")


class AuthorizationSpec(AuthorizationPolicySpec):
    """As Istio's, for services by name, and with a dry run that needs no annotation."""

    hosts: Some[Host] = Field((), description="Services; absent: every one of the namespace.")
    dry_run: bool = Field(False, alias="dryRun", description="Count what it would do, and do not do it.")

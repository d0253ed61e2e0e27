"""What a worker is told at its beginning: all that makes it a process of the same agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from secrets import randbits
from typing import Any

from busmesh.agent.definition import AgentDefinition
from busmesh.agent.process import Process
from busmesh.bus.bus import Bus
from busmesh.bus.login import Login
from busmesh.bus.options import BusOptions
from busmesh.identity.holder import Identity
from busmesh.identity.store import AgentHome
from busmesh.names import Subjects


@dataclass(frozen=True, slots=True)
class Setup:
    """The same as plain data, for the pipe between the processes.

    Attributes:
        definition: of the agent, as JSON.
        address: where all processes of the agent take the application's requests.
        servers: of the bus.
        files: the login's credentials, its nkey, and the authorities of TLS; None where there is none.
        home: the agent's; the first process writes there, workers read.
    """

    definition: str
    mesh: str
    instance: str
    worker: int
    address: tuple[str, int]
    servers: tuple[str, ...]
    files: tuple[str | None, str | None, str | None]
    home: str

    @classmethod
    def of(cls, first: Process, worker: int, address: tuple[str, int]) -> Setup:
        """Return what the first process tells one of its workers."""
        options = first.bus.options
        return cls(
            definition=first.definition.model_dump_json(by_alias=True, exclude_unset=True),
            mesh=first.subjects.mesh,
            instance=first.instance,
            worker=worker,
            address=address,
            servers=options.servers,
            files=(_text(options.credentials), _text(options.nkey), _text(options.tls_ca)),
            home=str(first.home.path),
        )

    def to_plain(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Setup:
        """Read what `to_plain` returned, with lists in place of tuples as MessagePack has it."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return cls(**fields)

    def process(self) -> Process:
        """Make what the worker is from now on, with the identity that is on disk."""
        subjects, home = Subjects(self.mesh), AgentHome(Path(self.home))
        credentials, nkey, tls_ca = (Path(file) if file is not None else None for file in self.files)
        options = BusOptions(
            self.servers,
            f"busmesh agent {self.instance} worker {self.worker}",
            subjects.inbox_prefix(self.instance),
            credentials,
            nkey,
            tls_ca,
            Login(read=home.credentials),  # the first process renews the login and puts it on disk
        )
        return Process(
            AgentDefinition.model_validate_json(self.definition),
            subjects,
            Identity(home.svid(), home.trust(self.mesh)),
            Bus(options),
            home,
            Random(randbits(64)),
            self.worker,
        )


def _text(file: Path | None) -> str | None:
    return str(file) if file is not None else None

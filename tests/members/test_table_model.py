"""The member table against a model, over any course of announcements, losses, outages and time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from busmesh.members.announcement import Announcement, State
from busmesh.members.table import MISSES, MemberTable
from busmesh.names import ServiceName, SpiffeId

ORDERS = ServiceName("orders")
INSTANCES = st.sampled_from(["orders-0", "orders-1"])


@dataclass
class Believed:
    """What the model believes: ``newest`` is what an announcement has to exceed."""

    newest: tuple[int, int]
    state: State
    heard: float


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = MemberTable()
        self.model: dict[str, Believed] = {}
        self.now = 0.0
        self.said: list[Announcement] = []

    def _hear(self, said: Announcement) -> None:
        signer = SpiffeId.workload("local", ORDERS, said.instance)
        known = self.model.get(said.instance)
        stamp = (said.incarnation, said.sequence)
        news = known is None or stamp > known.newest
        changed = self.table.apply(said, signer, self.now)
        if not news:
            assert not changed
            return
        if known is None:
            assert changed is (said.state is not State.LEFT)
        elif known.newest[0] == said.incarnation or said.state is State.LEFT:
            assert changed is (known.state is not said.state)
        else:
            assert changed
        self.model[said.instance] = Believed(stamp, said.state, self.now)

    @rule(
        instance=INSTANCES,
        incarnation=st.integers(1, 3),
        sequence=st.integers(0, 6),
        state=st.sampled_from(State),
    )
    def announce(self, instance: str, incarnation: int, sequence: int, state: State) -> None:
        said = Announcement(
            namespace="default",
            service="orders",
            instance=instance,
            incarnation=incarnation,
            sequence=sequence,
            interval=1.0,
            state=state,
        )
        self.said.append(said)
        self._hear(said)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.said:
            self._hear(data.draw(st.sampled_from(self.said)))

    @rule(
        instance=INSTANCES,
        signer=st.sampled_from(
            [
                SpiffeId.workload("local", ORDERS, "orders-2"),
                SpiffeId.workload("local", ServiceName("web"), "orders-0"),
                SpiffeId("local", operator="root"),
            ]
        ),
    )
    def forge(self, instance: str, signer: SpiffeId) -> None:
        forged = Announcement(
            namespace="default",
            service="orders",
            instance=instance,
            incarnation=99,
            sequence=99,
            interval=1.0,
            state=State.HEALTHY,
        )
        before = self.table.rejected
        assert not self.table.apply(forged, signer, self.now)
        assert self.table.rejected == before + 1

    @rule(instance=INSTANCES | st.just("orders-unknown"))
    def lost(self, instance: str) -> None:
        self.table.lost(ORDERS, instance, self.now)
        known = self.model.get(instance)
        if known is not None and known.state is not State.LEFT:
            incarnation, sequence = known.newest
            self.model[instance] = Believed((incarnation, sequence - 1), State.LEFT, self.now)

    @rule(seconds=st.floats(0, 2 * MISSES))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def excuse(self) -> None:
        self.table.excuse(self.now)
        for known in self.model.values():
            known.heard = self.now

    @rule()
    def expire(self) -> None:
        gone = {instance for instance, known in self.model.items() if self.now - known.heard > MISSES}
        assert {announcement.instance for announcement in self.table.expire(self.now)} == gone
        for instance in gone:
            del self.model[instance]

    @rule()
    def forget(self) -> None:
        self.table.forget(ORDERS)
        self.model.clear()

    @invariant()
    def agree(self) -> None:
        members = {member.announcement.instance: member for member in self.table.of(ORDERS)}
        assert {i: m.announcement.state for i, m in members.items()} == {
            i: known.state for i, known in self.model.items()
        }
        for instance, member in members.items():
            assert member.ready is (self.model[instance].state is State.HEALTHY)
            assert member.heard == self.model[instance].heard
        assert self.table.statistics()["members"] == len(members) == len(list(self.table.all()))


TestMemberTable = Machine.TestCase
TestMemberTable.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

"""Tests of Cloud Run's scaling rules, with fake instances and a fake clock."""

import asyncio

import pytest

from mcpfleet_local_cloud.data_plane.pool import InstancePool, NoInstanceError


class World:
    """Fake instances, which are numbers: they start at once, or when the test says so."""

    def __init__(self, *, at_once=True, **bounds):
        self.now = 1000.0
        self.at_once = at_once
        self.started = 0
        self.pending = []
        self.stopped = []
        self.fail_next = 0
        settings = {"concurrency": 1, "minimum": 0, "maximum": 3, "idle_after": 900.0} | bounds
        self.pool = InstancePool(start=self.start, stop=self.stop, clock=lambda: self.now, **settings)

    async def start(self):
        if self.fail_next:
            self.fail_next -= 1
            raise RuntimeError("does not start")
        self.started += 1
        number = self.started
        if not self.at_once:
            gate = asyncio.get_running_loop().create_future()
            self.pending.append(gate)
            await gate
        return number

    async def stop(self, instance):
        self.stopped.append(instance)

    async def pass_by(self, seconds):
        self.now += seconds
        self.pool.tick()
        await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def play(scenario):
    async def bounded():
        async with asyncio.timeout(5):
            await scenario()

    asyncio.run(bounded())


def test_one_instance_runs_at_first_even_with_a_minimum_of_zero():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        assert world.pool.instances == [1]

    play(scenario)


def test_another_instance_starts_when_the_concurrency_is_used_up():
    async def scenario():
        world = World(concurrency=2)
        await world.pool.ensure_minimum()
        slots = [await world.pool.acquire() for _ in range(3)]
        assert [slot.instance for slot in slots] == [1, 1, 2]

    play(scenario)


def test_requests_wait_for_a_starting_instance():
    async def scenario():
        world = World(at_once=False)
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        assert (len(world.pending), waiting.done()) == (1, False)
        world.pending[0].set_result(None)
        assert (await waiting).instance == 1

    play(scenario)


def test_the_number_of_instances_never_exceeds_the_maximum():
    async def scenario():
        world = World(maximum=2, at_once=False)
        tasks = [asyncio.create_task(world.pool.acquire()) for _ in range(5)]
        await settle()
        assert len(world.pending) == 2
        for gate in world.pending:
            gate.set_result(None)
        await settle()
        assert (sum(task.done() for task in tasks), world.started) == (2, 2)
        for task in tasks:
            task.cancel()

    play(scenario)


def test_waiting_requests_get_free_places_in_order():
    async def scenario():
        world = World(maximum=1)
        first = await world.pool.acquire()
        second, third = (asyncio.create_task(world.pool.acquire()) for _ in range(2))
        await settle()
        world.pool.release(first)
        await settle()
        assert (second.done(), third.done()) == (True, False)
        third.cancel()

    play(scenario)


def test_a_request_that_waited_ten_seconds_is_refused():
    async def scenario():
        world = World(maximum=1)
        await world.pool.acquire()
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        await world.pass_by(9.9)
        assert not waiting.done()
        await world.pass_by(0.2)
        with pytest.raises(NoInstanceError):
            await waiting

    play(scenario)


def test_with_slow_starts_requests_wait_three_and_a_half_times_the_startup_time():
    async def scenario():
        world = World(maximum=1, at_once=False)
        first = asyncio.create_task(world.pool.acquire())
        await settle()
        world.now += 8
        world.pending[0].set_result(None)
        await first
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        await world.pass_by(27.9)
        assert not waiting.done()
        await world.pass_by(0.2)
        with pytest.raises(NoInstanceError):
            await waiting

    play(scenario)


def test_a_caller_that_stops_waiting_uses_no_place():
    async def scenario():
        world = World(maximum=1)
        slot = await world.pool.acquire()
        gone = asyncio.create_task(world.pool.acquire())
        await settle()
        world.pool.release(slot)  # the place is promised to `gone` …
        gone.cancel()  # … which leaves in the same moment
        await asyncio.gather(gone, return_exceptions=True)
        assert world.pool.active_requests == 0
        assert (await world.pool.acquire()).instance == 1

    play(scenario)


def test_idle_instances_above_the_minimum_are_stopped():
    async def scenario():
        world = World(minimum=1)
        await world.pool.ensure_minimum()
        slots = [await world.pool.acquire() for _ in range(3)]
        for slot in slots:
            world.pool.release(slot)
        await world.pass_by(899)
        assert world.stopped == []
        await world.pass_by(2)
        assert (sorted(world.stopped), world.pool.instances) == ([2, 3], [1])

    play(scenario)


def test_a_service_scales_to_zero_and_starts_again_on_demand():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        await world.pass_by(901)
        await world.pass_by(1)
        assert (world.stopped, world.pool.instances, world.started) == ([1], [], 1)
        assert (await world.pool.acquire()).instance == 2

    play(scenario)


def test_a_service_scales_to_zero_after_a_crash():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        world.pool.on_instance_exit(1)
        await settle()
        await world.pass_by(901)
        await world.pass_by(100)
        assert (world.pool.instances, world.started) == ([], 2)

    play(scenario)


def test_a_busy_instance_is_never_stopped_as_idle():
    async def scenario():
        world = World()
        await world.pool.acquire()
        await world.pass_by(5000)
        assert world.stopped == []

    play(scenario)


def test_a_crashed_instance_is_replaced_at_once_and_a_crash_loop_with_backoff():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        seen = []
        for wait in (0, 1, 2, 4):
            world.pool.on_instance_exit(world.pool.instances[0])
            await settle()
            if wait:
                await world.pass_by(wait - 0.1)
                seen.append(list(world.pool.instances))
                await world.pass_by(0.2)
            seen.append(list(world.pool.instances))
        assert seen == [[2], [], [3], [], [4], [], [5]]

    play(scenario)


def test_an_instance_that_lived_long_does_not_count_as_part_of_a_crash_loop():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        for number in (2, 3, 4):
            await world.pass_by(60)
            world.pool.on_instance_exit(world.pool.instances[0])
            await settle()
            assert world.pool.instances == [number]

    play(scenario)


def test_requests_that_wait_during_a_crash_get_the_new_instance():
    async def scenario():
        world = World(maximum=1)
        await world.pool.acquire()
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        world.pool.on_instance_exit(1)
        assert (await waiting).instance == 2

    play(scenario)


def test_a_failed_start_is_retried_after_a_delay():
    async def scenario():
        world = World()
        world.fail_next = 2
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        await world.pass_by(0.1)
        await world.pass_by(1.1)
        assert (await waiting).instance == 1

    play(scenario)


def test_ensure_minimum_raises_the_reason_of_a_failed_start():
    async def scenario():
        world = World(minimum=2)
        world.fail_next = 1
        with pytest.raises(RuntimeError, match="does not start"):
            await world.pool.ensure_minimum()

    play(scenario)


def test_draining_waits_for_running_and_waiting_requests_then_stops_everything():
    async def scenario():
        world = World(maximum=1)
        running = await world.pool.acquire()
        waiting = asyncio.create_task(world.pool.acquire())
        await settle()
        drained = asyncio.create_task(world.pool.drain(60))
        await settle()
        assert world.stopped == []
        world.pool.release(running)
        await settle()
        assert (drained.done(), world.stopped) == (False, [])
        world.pool.release(await waiting)
        await drained
        assert world.stopped == [1]
        with pytest.raises(NoInstanceError):
            await world.pool.acquire()

    play(scenario)


def test_draining_ends_requests_that_exceed_the_timeout():
    async def scenario():
        world = World()
        await world.pool.acquire()
        await world.pool.drain(0)
        assert world.stopped == [1]

    play(scenario)


def test_a_lower_maximum_stops_surplus_instances_once_idle():
    async def scenario():
        world = World()
        slots = [await world.pool.acquire() for _ in range(3)]
        world.pool.resize(0, 1)
        world.pool.release(slots[2])
        await world.pass_by(1)
        assert world.stopped == [3]
        world.pool.release(slots[1])
        await world.pass_by(1)
        assert (world.stopped, world.pool.instances) == ([3, 2], [1])

    play(scenario)


def test_a_higher_minimum_starts_the_missing_instances():
    async def scenario():
        world = World()
        await world.pool.ensure_minimum()
        world.pool.resize(3, 3)
        await world.pool.ensure_minimum()
        await settle()
        assert (world.pool.instances, world.started) == ([1, 2, 3], 3)

    play(scenario)

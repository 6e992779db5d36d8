from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue

import pytest

from compositor_backend.errors import NetworkError
from compositor_backend.network_cache import NetworkCache


@dataclass(eq=False)
class Net:
    name: str
    nbytes: int = 10


Cache = NetworkCache[Net]
PATIENCE_S = 30.0


@pytest.fixture
def make() -> Iterator[Callable[..., Cache]]:
    made: list[Cache] = []

    def make(budget_bytes: int, loaders: int = 2) -> Cache:
        made.append(Cache(budget_bytes, loaders))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def load(cache: Cache, name: str, nbytes: int = 10) -> Net | Exception:
    """Load a network and wait until its load is over, what follows on the callback included."""
    answers: Queue[Net | Exception] = Queue()
    cache.load(name, nbytes, lambda: Net(name, nbytes), answers.put)
    return answers.get(timeout=PATIENCE_S)


def is_resident(cache: Cache, name: str) -> bool:
    found = cache.acquire(name)
    if found is not None:
        cache.release(name)
    return found is not None


def wait_for_loads(cache: Cache, count: int) -> None:
    """Until loaders have let go of what they loaded: a load that comes after it is answered by the same thread."""
    done = threading.Event()
    while cache.counts.loads + cache.counts.failures < count:
        done.wait(0.001)


def test_what_was_loaded_is_resident(make: Callable[..., Cache]) -> None:
    cache = make(100)
    assert cache.acquire("a") is None
    net = load(cache, "a")
    assert cache.acquire("a") is net
    cache.release("a")
    counts = cache.counts
    assert (counts.hits, counts.misses, counts.loads, counts.resident) == (1, 1, 1, 1)
    assert counts.resident_bytes == 10


def test_the_least_recently_used_makes_room(make: Callable[..., Cache]) -> None:
    cache = make(20, 1)
    load(cache, "a")
    load(cache, "b")
    assert is_resident(cache, "a")  # used later than b now
    load(cache, "c")
    assert is_resident(cache, "a")
    assert not is_resident(cache, "b")
    assert cache.counts.evictions == 1


def test_one_in_use_is_never_evicted(make: Callable[..., Cache]) -> None:
    cache = make(20, 1)
    load(cache, "a")
    load(cache, "b")
    wait_for_loads(cache, 2)
    held = cache.acquire("a")
    assert cache.acquire("b") is not None  # b is used last, but a is held
    cache.release("b")
    load(cache, "c")
    assert cache.acquire("a") is held


def test_a_network_larger_than_the_budget_is_loaded_and_stays_alone(make: Callable[..., Cache]) -> None:
    cache = make(5, 1)
    assert isinstance(load(cache, "a"), Net)
    assert is_resident(cache, "a")
    assert isinstance(load(cache, "b"), Net)
    assert is_resident(cache, "b")
    assert cache.counts.resident == 1


def test_many_who_want_the_same_wait_for_one_load(make: Callable[..., Cache]) -> None:
    cache = make(100)
    begun, go_on = threading.Event(), threading.Event()
    opened: list[str] = []

    def open_slowly() -> Net:
        opened.append("a")
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return Net("a")

    answers: Queue[Net | Exception] = Queue()
    for _ in range(5):
        cache.load("a", 10, open_slowly, answers.put)
    assert begun.wait(PATIENCE_S)
    go_on.set()
    found = [answers.get(timeout=PATIENCE_S) for _ in range(5)]
    assert len({id(net) for net in found}) == 1
    assert opened == ["a"]


def test_a_load_that_hangs_leaves_the_others_a_loader(make: Callable[..., Cache]) -> None:
    cache = make(100)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> Net:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return Net("slow")

    slow: Queue[Net | Exception] = Queue()
    cache.load("slow", 10, hang, slow.put)
    assert begun.wait(PATIENCE_S)
    assert isinstance(load(cache, "a"), Net)
    assert isinstance(load(cache, "b"), Net)
    go_on.set()
    assert isinstance(slow.get(timeout=PATIENCE_S), Net)


def test_a_load_of_what_is_resident_hands_it_over(make: Callable[..., Cache]) -> None:
    cache = make(20, 1)
    net = load(cache, "a")
    held = cache.acquire("a")
    assert load(cache, "a") is net is held
    load(cache, "b")
    load(cache, "c")  # b makes room, since a is still held
    assert cache.acquire("a") is net
    assert cache.counts.loads == 3


def test_a_failure_is_handed_to_all_who_wait_and_forgotten(make: Callable[..., Cache]) -> None:
    cache = make(100)

    def fail() -> Net:
        raise NetworkError("broken")

    answers: Queue[Net | Exception] = Queue()
    cache.load("a", 10, fail, answers.put)
    assert isinstance(answers.get(timeout=PATIENCE_S), NetworkError)
    assert isinstance(load(cache, "a"), Net)
    wait_for_loads(cache, 2)
    assert (cache.counts.failures, cache.counts.loads) == (1, 1)


def test_hits_are_those_of_a_simulated_lru(make: Callable[..., Cache]) -> None:
    cache, room = make(80, 1), 8
    simulated: OrderedDict[str, None] = OrderedDict()
    chance = random.Random(5)
    expected = 0
    for count in range(400):
        name = str(int(chance.paretovariate(0.7)) % 30)
        expected += name in simulated
        simulated[name] = None
        simulated.move_to_end(name)
        while len(simulated) > room:
            simulated.popitem(last=False)
        if cache.acquire(name) is None:
            load(cache, name)
            wait_for_loads(cache, cache.counts.misses)
        else:
            cache.release(name)
        assert cache.counts.resident <= room, count
    assert cache.counts.hits == expected


def test_a_closed_cache_holds_nothing(make: Callable[..., Cache]) -> None:
    cache = make(100)
    load(cache, "a")
    cache.close()
    assert cache.counts.resident == 0

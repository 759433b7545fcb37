"""Health as a value: what reports of successes and failures make of it, by a time that is handed in."""

import pytest

from ragcache.service.health import OK, STEADY_SECONDS, Condition, Health


def test_a_component_is_degraded_until_it_has_worked_for_a_while():
    health = Health(["search", "disk"], steady_seconds=10.0)
    assert health.state == "ok"
    assert health.failed("search", "search", "no memory", 3.0) is True
    assert health.failed("search", "search", "no disk", 5.0) is False
    assert health.conditions() == {"search": Condition("degraded", 3.0, 2, "no disk"), "disk": OK}
    assert health.state == "degraded"
    assert health.worked("search", "search", 6.0) is False
    assert health.worked("search", "search", 14.9) is False
    assert health.conditions()["search"] == Condition("degraded", 3.0, 2, "no disk")  # the message stays
    assert health.worked("search", "search", 15.0) is True
    assert health.worked("search", "search", 16.0) is False
    assert health.conditions()["search"] is OK
    assert health.state == "ok"
    assert (health.failures("search"), health.recoveries("search")) == (2, 1)
    assert health.failed("search", "search", "again", 19.0) is True
    assert health.conditions()["search"] == Condition("degraded", 19.0, 1, "again")


def test_without_another_try_it_is_well_by_time_alone():
    health = Health(["search"], steady_seconds=10.0)
    health.failed("search", "search", "no memory", 3.0)
    assert health.refresh(100.0) == []  # it failed when last tried
    health.worked("search", "search", 101.0)
    assert health.state == "ok"
    health.failed("search", "search", "no memory", 102.0)
    health.worked("search", "search", 103.0)
    assert health.refresh(111.9) == []
    assert health.state == "degraded"
    assert health.refresh(112.0) == ["search"]
    assert health.refresh(113.0) == []
    assert health.state == "ok"


@pytest.mark.parametrize("pause", [0.01, 1.0, STEADY_SECONDS / 2 - 0.01])
def test_what_fails_and_works_in_turns_does_not_flap(pause):
    health, time, states = Health(["host", "disk"]), 0.0, []
    for turn in range(200):
        time += pause
        if turn % 2:
            health.worked("disk", "read", time)
        else:
            health.failed("disk", "read", f"unreadable {turn}", time)
        states.append(health.state)
    assert set(states) == {"degraded"}
    assert health.conditions()["disk"] == Condition("degraded", pause, 100, "unreadable 198")
    assert (health.failures("disk"), health.recoveries("disk")) == (100, 0)
    health.refresh(time + STEADY_SECONDS)
    assert health.state == "ok"
    assert health.recoveries("disk") == 1


def test_each_activity_has_to_work_again():
    health = Health(["disk"], steady_seconds=0.0)
    health.failed("disk", "write", "full", 1.0)
    health.failed("disk", "read", "unreadable", 2.0)
    assert health.worked("disk", "read", 3.0) is False
    assert health.worked("disk", "remove", 3.0) is False
    assert health.conditions()["disk"] == Condition("degraded", 1.0, 2, "unreadable")
    assert health.worked("disk", "write", 3.0) is True
    assert health.recoveries("disk") == 1


def test_what_never_failed_does_not_recover():
    health = Health(["host"])
    assert health.worked("host", "put", 1.0) is False
    assert health.refresh(100.0) == []
    assert health.recoveries("host") == 0


def test_what_is_lost_fails_until_it_is_regained_and_is_degraded_until_it_is_steady():
    health = Health(["engine", "search"], steady_seconds=10.0)
    health.failed("engine", "generate", "a step failed", 1.0)
    assert health.lost("engine", "no device", 2.0) is True
    assert health.lost("engine", "no device", 3.0) is False
    assert health.conditions()["engine"] == Condition("failed", 1.0, 2, "no device")
    assert health.worked("engine", "generate", 50.0) is False
    health.failed("engine", "generate", "dead", 51.0)
    assert health.state == "failed"
    assert health.regained("engine", 60.0) is True
    assert health.regained("engine", 61.0) is False
    assert health.conditions()["engine"] == Condition("degraded", 1.0, 3, "dead")
    assert health.refresh(69.9) == []
    assert health.refresh(70.0) == ["engine"]
    assert health.state == "ok"
    assert (health.failures("engine"), health.recoveries("engine")) == (3, 1)


def test_what_is_not_known_to_be_well_yet_is_degraded_without_a_failure():
    health = Health(["index"])
    health.unsure("index", "check", "2 GB left", 1.0)
    health.unsure("index", "check", "1 GB left", 2.0)
    assert health.conditions()["index"] == Condition("degraded", 1.0, 0, "1 GB left")
    assert health.worked("index", "check", 2.5) is False
    assert health.conditions()["index"] is OK
    health.unsure("index", "check", "1 GB left", 3.0)
    assert health.lost("index", "damaged", 4.0) is True
    health.unsure("index", "check", "0 GB left", 5.0)
    assert health.conditions()["index"] == Condition("failed", 3.0, 1, "damaged")
    assert health.regained("index", 6.0) is True
    health.unsure("index", "check", "3 GB left", 7.0)
    assert health.refresh(60.0) == [], "another check goes on"
    assert health.worked("index", "check", 61.0) is True
    assert (health.failures("index"), health.recoveries("index")) == (1, 1)

"""Health is what the latest successes and failures say."""

from ragcache.service.health import OK, Condition, Health


def test_a_failure_degrades_until_the_same_thing_works():
    health = Health(["search", "disk"])
    assert health.state == "ok"
    assert health.failed("search", "search", "no memory", 3.0) is True
    assert health.failed("search", "search", "no disk", 5.0) is False
    assert health.conditions() == {"search": Condition("degraded", 3.0, 2, "no disk"), "disk": OK}
    assert health.state == "degraded"
    assert health.worked("search", "search") is True
    assert health.conditions()["search"] is OK
    assert health.state == "ok"
    assert (health.failures("search"), health.recoveries("search")) == (2, 1)
    assert health.failed("search", "search", "again", 9.0) is True
    assert health.conditions()["search"] == Condition("degraded", 9.0, 1, "again")


def test_success_of_one_activity_says_nothing_of_another():
    health = Health(["disk"])
    health.failed("disk", "write", "full", 1.0)
    health.failed("disk", "read", "unreadable", 2.0)
    assert health.worked("disk", "read") is False
    assert health.worked("disk", "remove") is False
    assert health.conditions()["disk"] == Condition("degraded", 1.0, 2, "unreadable")
    assert health.worked("disk", "write") is True
    assert health.recoveries("disk") == 1


def test_success_of_what_was_well_is_no_news():
    health = Health(["host"])
    assert health.worked("host", "put") is False
    assert health.recoveries("host") == 0


def test_what_is_lost_is_failed_until_found():
    health = Health(["engine", "search"])
    health.failed("engine", "generate", "a step failed", 1.0)
    assert health.lost("engine", "no device", 2.0) is True
    assert health.lost("engine", "no device", 3.0) is False
    assert health.conditions()["engine"] == Condition("failed", 1.0, 2, "no device")
    assert health.worked("engine", "generate") is False
    health.failed("engine", "generate", "dead", 4.0)
    assert health.state == "failed"
    assert health.regained("engine") is True
    assert health.regained("engine") is False
    assert health.state == "ok"
    assert (health.failures("engine"), health.recoveries("engine")) == (3, 1)


def test_what_is_not_known_to_be_well_yet_is_degraded_without_a_failure():
    health = Health(["index"])
    health.unsure("index", "check", "2 GB left", 1.0)
    health.unsure("index", "check", "1 GB left", 2.0)
    assert health.conditions()["index"] == Condition("degraded", 1.0, 0, "1 GB left")
    assert health.worked("index", "check") is False
    assert health.conditions()["index"] is OK
    health.unsure("index", "check", "1 GB left", 3.0)
    assert health.lost("index", "damaged", 4.0) is True
    health.unsure("index", "check", "0 GB left", 5.0)
    assert health.conditions()["index"] == Condition("failed", 3.0, 1, "damaged")
    assert health.regained("index") is True
    assert (health.failures("index"), health.recoveries("index")) == (1, 1)

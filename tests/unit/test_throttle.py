"""The rate limit on refused logins."""

from __future__ import annotations

import pytest

from target.iscsi.constants import LoginStatus
from target.iscsi.throttle import LoginThrottle

WRONG = LoginStatus.AUTHENTICATION_FAILURE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> LoginThrottle:
    return LoginThrottle(clock, burst_logins=3, refill_seconds=10.0, addresses_max=4)


def exhaust(throttle: LoginThrottle, address: str) -> int:
    """How many refusals it takes until the address is shut out."""
    count = 0
    while throttle.allowed(address):
        throttle.ended(address, WRONG)
        count += 1
    return count


def test_a_burst_and_then_one_login_in_a_while(throttle: LoginThrottle, clock: Clock) -> None:
    assert exhaust(throttle, "10.0.0.1") == 3
    assert throttle.retry_after_seconds("10.0.0.1") == 10.0
    clock.now += 9.0
    assert not throttle.allowed("10.0.0.1")
    clock.now += 1.0
    assert exhaust(throttle, "10.0.0.1") == 1
    clock.now += 1000.0
    assert exhaust(throttle, "10.0.0.1") == 3


def test_the_others_are_not_concerned(throttle: LoginThrottle) -> None:
    exhaust(throttle, "10.0.0.1")
    assert throttle.allowed("10.0.0.2")


@pytest.mark.parametrize(
    "status", [LoginStatus.SUCCESS, LoginStatus.NOT_FOUND, LoginStatus.SERVICE_UNAVAILABLE]
)
def test_other_outcomes_neither_take_nor_give(throttle: LoginThrottle, status: LoginStatus) -> None:
    for _ in range(10):
        throttle.ended("10.0.0.1", status)
    assert len(throttle) == 0
    exhaust(throttle, "10.0.0.1")
    throttle.ended("10.0.0.1", status)
    assert not throttle.allowed("10.0.0.1")


def test_refusals_while_shut_out_do_not_add_up(throttle: LoginThrottle, clock: Clock) -> None:
    for _ in range(100):
        throttle.ended("10.0.0.1", WRONG)
    clock.now += 30.0
    assert exhaust(throttle, "10.0.0.1") == 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("somewhere", "somewhere", True),
        ("somewhere", "elsewhere", False),
    ],
)
def test_what_counts_as_one_address(
    throttle: LoginThrottle, one: str, other: str, same: bool
) -> None:
    exhaust(throttle, one)
    assert throttle.allowed(other) is not same


def test_the_table_is_bounded(throttle: LoginThrottle, clock: Clock) -> None:
    exhaust(throttle, "10.0.0.1")
    for n in range(2, 50):
        throttle.ended(f"10.0.0.{n}", WRONG)
        assert len(throttle) <= 4
    assert not throttle.allowed("10.0.0.1"), "the worst offender is forgotten last"
    clock.now += 100.0
    throttle.ended("10.0.1.1", WRONG)
    assert len(throttle) == 1, "what is forgiven makes room first"

"""Shamir's sharing: any t shares give the secret, fewer fit every secret. The oracle solves linear systems mod P."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from cohort import drawing, scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.shamir import P, coefficients, combine, split, to_element

GOLDEN = Path(__file__).parents[2] / "golden" / "secagg_shamir.json"
SMALL = [(n, t) for n in range(1, 8) for t in range(1, n + 1)]


def solved(points: list[int], values: list[int]) -> list[int]:
    """The coefficients, from the constant on, of the one polynomial of degree < len(points) through the points.

    Gauss-Jordan elimination of the Vandermonde system.
    """
    size = len(points)
    rows = [[pow(x, power, P) for power in range(size)] + [y] for x, y in zip(points, values, strict=True)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], P - 2, P)
        rows[column] = [value * inverse % P for value in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % P for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]


def value_at(polynomial: list[int], x: int) -> int:
    return sum(coefficient * pow(x, power, P) for power, coefficient in enumerate(polynomial)) % P


def dealt(secret: int, polynomial: list[int], n: int) -> list[bytes]:
    """Shares of the secret when the given coefficients are drawn: the highest first, as `split` reads them."""
    raw = b"".join(coefficient.to_bytes(49, "big") for coefficient in reversed(polynomial))
    return split(secret.to_bytes(32, "big"), len(polynomial) + 1, n, lambda _: raw)


# ---- the field -------------------------------------------------------------------------------------------------------


def is_probably_prime(number: int, bases: list[int]) -> bool:
    """Miller-Rabin."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_smallest_prime_above_every_secret() -> None:
    draw = drawing(7)
    assert is_probably_prime(P, [2, 3, 5, 7, 11, 13] + [draw.randrange(2, P - 1) for _ in range(100)])
    assert P > 2**256
    assert not any(is_probably_prime(number, [2, 3, 5]) for number in range(2**256, P))


def test_the_test_of_primes_knows_primes() -> None:
    primes = [n for n in range(5, 2000) if all(n % d for d in range(2, int(n**0.5) + 1))]
    assert [n for n in range(5, 2000) if is_probably_prime(n, [2, 3])] == primes
    assert is_probably_prime(2**255 - 19, [2, 3, 5])
    assert not is_probably_prime(561, [2, 5])


# ---- any t shares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "t"), SMALL)
def test_every_set_of_t_shares_or_more_gives_the_secret(n: int, t: int) -> None:
    secret = scripted(f"{n}/{t}")(32)
    shares = [to_element(share) for share in split(secret, t, n, scripted("coefficients"))]
    for size in range(t, n + 1):
        for points in combinations(range(1, n + 1), size):
            chosen = [shares[x - 1] for x in points]
            assert combine(chosen, coefficients(list(points))) == int.from_bytes(secret, "big")
            assert solved(list(points), chosen)[0] == int.from_bytes(secret, "big")


@pytest.mark.parametrize(("n", "t"), [(n, t) for n, t in SMALL if t > 1])
def test_fewer_shares_fit_every_secret(n: int, t: int) -> None:
    secret = scripted(f"{n}/{t}")(32)
    shares = split(secret, t, n, scripted("coefficients"))
    candidates = [0, 1, 2**256 - 1, int.from_bytes(scripted("another")(32), "big")]
    for points in combinations(range(1, n + 1), t - 1):
        known = [to_element(shares[x - 1]) for x in points]
        for candidate in candidates:
            polynomial = solved([0, *points], [candidate, *known])
            assert polynomial[0] == candidate
            assert [dealt(candidate, polynomial[1:], n)[x - 1] for x in points] == [shares[x - 1] for x in points]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_shares_are_values_of_the_polynomial_that_was_drawn(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    t = data.draw(st.integers(1, n))
    secret = data.draw(st.integers(0, 2**256 - 1))
    drawn = data.draw(st.lists(st.integers(0, 2 ** (8 * 49) - 1), min_size=t - 1, max_size=t - 1))
    polynomial = [secret, *(coefficient % P for coefficient in drawn)]
    assert [to_element(share) for share in dealt(secret, drawn, n)] == [
        value_at(polynomial, x) for x in range(1, n + 1)
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lagrange_s_coefficients_are_the_first_row_of_the_inverse_system(data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=8, unique=True))
    for place, weight in enumerate(coefficients(points)):
        unit = [int(at == place) for at in range(len(points))]
        assert weight == solved(points, unit)[0]


def test_lagrange_s_coefficients_keep_constants_and_kill_powers() -> None:
    points = [1, 4, 7, 100, P - 1]
    weights = coefficients(points)
    assert sum(weights) % P == 1
    for power in range(1, len(points)):
        assert sum(weight * pow(x, power, P) for weight, x in zip(weights, points, strict=True)) % P == 0


def test_a_cohort_of_two_hundred_gives_secrets_back() -> None:
    draw = drawing(3)
    for secret in (bytes(32), b"\xff" * 32, scripted("x")(32)):
        shares = split(secret, 134, 200, scripted("large"))
        points = draw.sample(range(1, 201), 134)
        combined = combine([to_element(shares[x - 1]) for x in points], coefficients(points))
        assert combined == int.from_bytes(secret, "big")


def test_the_order_of_shares_does_not_matter_but_their_points_do() -> None:
    shares = [to_element(share) for share in split(b"s" * 32, 3, 5, scripted("o"))]
    secret = int.from_bytes(b"s" * 32, "big")
    assert combine([shares[4], shares[0], shares[2]], coefficients([5, 1, 3])) == secret
    assert combine([shares[4], shares[0], shares[2]], coefficients([1, 5, 3])) != secret


def test_each_secret_is_dealt_with_fresh_coefficients() -> None:
    asked = []
    entropy = scripted("fresh")

    def recorded(size: int) -> bytes:
        asked.append(size)
        return entropy(size)

    one, two = (split(b"s" * 32, 4, 5, recorded) for _ in range(2))
    assert asked == [3 * 49, 3 * 49]
    assert not set(one) & set(two)


def test_with_a_threshold_of_one_every_share_is_the_secret() -> None:
    assert split(b"s" * 32, 1, 3, scripted("")) == [b"\x00" + b"s" * 32] * 3


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="secret"):
        split(bytes(size), 2, 3, scripted(""))


@pytest.mark.parametrize(("t", "n"), [(0, 3), (-1, 3), (4, 3), (1, 0)])
def test_a_threshold_that_does_not_fit_is_refused(t: int, n: int) -> None:
    with pytest.raises(InputError, match="threshold"):
        split(bytes(32), t, n, scripted(""))


@pytest.mark.parametrize("given_", [0, 97, 99])
def test_too_little_or_too_much_randomness_is_refused(given_: int) -> None:
    with pytest.raises(InputError, match="randomness"):
        split(bytes(32), 3, 3, lambda _: bytes(given_))


@pytest.mark.parametrize("value", [0, 1, 2**256, P - 1])
def test_every_element_of_the_field_is_a_share(value: int) -> None:
    assert to_element(value.to_bytes(33, "big")) == value


@pytest.mark.parametrize(
    "share", [P.to_bytes(33, "big"), b"\xff" * 33, b"", bytes(32), bytes(34), (P - 1).to_bytes(34, "big")]
)
def test_what_is_no_element_is_no_share(share: bytes) -> None:
    with pytest.raises(InputError, match="element"):
        to_element(share)


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [1, 2, 1], [-1, 2], [P], [1, P + 1]])
def test_points_that_rebuild_nothing_are_refused(points: list[int]) -> None:
    with pytest.raises(InputError, match="points"):
        coefficients(points)


def test_a_coefficient_too_many_is_refused() -> None:
    with pytest.raises(InputError, match="coefficient"):
        combine([1, 2], [1])


# ---- golden ----------------------------------------------------------------------------------------------------------


def calculated(seed: str, t: int, n: int) -> dict[str, object]:
    """A golden case by schoolbook arithmetic: nothing of the package is used."""
    secret, raw = scripted(f"{seed}/secret")(32), scripted(f"{seed}/coefficients")(49 * (t - 1))
    descending = [int.from_bytes(raw[at : at + 49], "big") % P for at in range(0, len(raw), 49)]
    polynomial = [int.from_bytes(secret, "big"), *reversed(descending)]
    shares = [value_at(polynomial, x).to_bytes(33, "big").hex() for x in range(1, n + 1)]
    return {"seed": seed, "threshold": t, "secret": secret.hex(), "shares": shares}


def test_shares_are_the_golden_ones() -> None:
    cases = json.loads(GOLDEN.read_text())["cases"]
    assert len(cases) == 5
    for case in cases:
        seed, t, n = case["seed"], case["threshold"], len(case["shares"])
        assert case == calculated(seed, t, n)
        shares = split(bytes.fromhex(case["secret"]), t, n, scripted(f"{seed}/coefficients"))
        assert [share.hex() for share in shares] == case["shares"]


if __name__ == "__main__":
    about = (
        "Shares by schoolbook arithmetic mod 2^256 + 297; coefficients: SHAKE-256 of seed/coefficients, 49 bytes each."
    )
    sizes = [("a", 1, 1), ("b", 3, 3), ("c", 3, 4), ("d", 5, 7), ("e", 14, 20)]
    GOLDEN.write_text(json.dumps({"about": about, "cases": [calculated(*size) for size in sizes]}, indent=1) + "\n")

from __future__ import annotations

from scpseg.reporting.looks import FURTHER, METHODS, OTHERS, looks_of, other_look


def test_a_method_looks_the_same_whatever_stands_beside_it() -> None:
    for methods in (
        ("scpseg", "patch", "glnet"),
        ("glnet", "scpseg"),
        ("mine", "glnet", "patch", "downscale", "scpseg"),
    ):
        found = looks_of(methods)
        assert {name: found[name] for name in methods if name in METHODS}.items() <= METHODS.items()
    # Of an added method too, and whatever the order.
    assert looks_of(("mine",))["mine"] == looks_of(("glnet", "yours", "mine"))["mine"] in FURTHER
    many = [f"m{index}" for index in range(len(FURTHER))]
    assert looks_of(many) == looks_of(many[::-1])


def test_no_two_methods_share_a_look() -> None:
    names = [*METHODS, *(f"m{index}" for index in range(len(FURTHER)))]
    assert len(set(looks_of(names).values())) == len(names)
    assert len(looks_of([*names, "one", "more"])) == len(names) + 2


def test_what_is_no_method_looks_like_none() -> None:
    others = {other_look(index) for index in range(len(OTHERS))}
    assert len(others) == len(OTHERS)
    for looks in (METHODS.values(), FURTHER):
        assert not {look.marker for look in others} & {look.marker for look in looks}
        assert not {look.colour for look in others} & {look.colour for look in looks}

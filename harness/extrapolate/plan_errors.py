"""What is said where no plan does: how many chips would, or which degree is in the way.

Words and arithmetic alone; `search` knows the plans.
"""

from collections.abc import Callable, Mapping

from harness.errors import PlanError
from harness.units import GIBI

Fits = Callable[[int], bool]
"""Whether any plan of so many chips fits their memory."""


def least_chips(fits: Fits, too_few: int, most: int) -> int | None:
    """The least number of chips between two numbers that any plan fits; None where not even `most`.

    By doubling and halving, as if more chips always fitted what fewer do: that is true but for odd
    numbers of chips, of which a search leaves some idle.
    """
    if most <= too_few or not fits(most):
        return None
    enough = too_few
    while enough < most:
        too_few, enough = enough, min(2 * enough, most)
        if fits(enough):
            break
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if fits(middle) else (middle, enough)
    return enough


def more_chips_text(fits: Fits, model: str, num_chips: int, most: int) -> str:
    """What to do where no plan of that many chips holds the model.

    Args:
        fits: asked for numbers of chips from `num_chips` to `most`.
        model: its name.
        num_chips: those there are.
        most: those that the networks of the cluster join.
    """
    enough = least_chips(fits, num_chips, most)
    if enough is not None:
        return (
            f"No plan fits: {model} needs {enough} chips at least. Set cluster.num_chips={enough}."
        )
    return (
        f"No plan fits, and none would with the {most} chips that the last tier of the cluster "
        f"joins. Take a chip with more memory or a smaller model than {model}."
    )


def too_large(
    plan: str, parts: tuple[tuple[str, float], ...], limit: float, advice: str
) -> PlanError:
    """The error for plans that need more memory than a chip has.

    Args:
        plan: the label of the leanest one.
        parts: what it needs, in bytes.
        limit: the memory of a chip, in bytes.
        advice: what fits, or what to do.
    """
    named = " + ".join(f"{name} {part / GIBI:.1f}" for name, part in parts if part > 0)
    total = sum(part for _, part in parts)
    return PlanError(
        f"parallel: {plan} needs {named} = {total / GIBI:.1f} GiB per chip, but a chip has "
        f"{limit / GIBI:.1f} GiB. {advice}"
    )


def changes(fixed: Mapping[str, object], plan: Mapping[str, object]) -> str:
    """Overrides that make what is fixed what a plan has: `parallel.tensor=8 parallel.data=2`."""
    return " ".join(
        f"parallel.{name}={plan[name]}"
        for name, value in fixed.items()
        if value is not None and value != plan[name]
    )


def replica_too_large(product: str, replica: int, num_chips: int) -> PlanError:
    """The error for degrees whose product is more than all chips.

    Args:
        product: the degrees and their product, in words.
        replica: chips that one replica needs.
        num_chips: those there are.
    """
    return PlanError(
        f"{product}, and one replica needs {replica}, but cluster.num_chips is {num_chips}. "
        f"Set cluster.num_chips={replica} or more, or smaller degrees."
    )


def nothing_legal(model: str, num_chips: int, fixed: Mapping[str, object]) -> PlanError:
    """The error where no plan keeps what is fixed.

    Args:
        model: its name.
        num_chips: those there are.
        fixed: what the plan must have by key, None where searched.
    """
    given = [f"parallel.{name}={value}" for name, value in fixed.items() if value is not None]
    if not given:
        nearest = 1 << (num_chips.bit_length() - 1)
        return PlanError(
            f"cluster.num_chips: no plan cuts {model} evenly for {num_chips} chips. "
            f"Set cluster.num_chips={nearest}."
        )
    searched = " ".join(f"{one.partition('=')[0]}=null" for one in given)
    return PlanError(
        f"parallel: no plan of {num_chips} chips cuts {model} evenly with {', '.join(given)}. "
        f"Set {searched} to have them searched, or some of them."
    )

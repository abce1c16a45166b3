"""Reader: takes keys out of one mapping, checks them, and refuses what is left over.

Every error names the key, the value, what is allowed and what to do.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.config import bounds
from harness.errors import ConfigError, did_you_mean

MOST_REAL = 1e15
"""No number of a machine is larger, and sums of such stay finite."""
SHOWN_BOUND = 1000
"""Upper bounds up to here are told with the lower ones; others are far from any machine."""
PEAK_DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8")


@dataclass(slots=True)
class Reader:
    """Takes keys out of one mapping, checks them, and refuses what is left over."""

    data: Mapping[str, object]
    key: str
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping):
            raise ConfigError(
                f"{self.key}: {self.data!r} is not a table of keys. "
                f"Name a file of configs/{self.key}/, or give its keys."
            )

    def at(self, name: str) -> str:
        """The whole key of one of the mapping's."""
        return f"{self.key}.{name}" if self.key else name

    def _error(self, name: str, value: object, allowed: str, advice: str) -> ConfigError:
        return ConfigError(f"{self.at(name)}: {value!r} is not {allowed}. {advice}")

    def _take(self, name: str) -> object:
        self.used.add(name)
        return self.data.get(name)

    def _required(self, name: str, allowed: str, offered: str) -> object:
        value = self._take(name)
        if value is None:
            raise ConfigError(
                f"{self.at(name)}: missing; it must be {allowed}. "
                f"Set {self.at(name)}={offered} or another."
            )
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text; `default` when absent or null."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value):
            if value is None:
                raise ConfigError(f"{self.at(name)}: missing; it must be a text. Add it.")
            raise self._error(name, value, "a text", "Put it in quotes.")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of the texts allowed; `default` when absent or null."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in allowed:
            near = did_you_mean(value, allowed) if isinstance(value, str) else ""
            what = "missing; it must be" if value is None else f"{value!r} is not"
            named = [one for one in allowed if one]
            raise ConfigError(
                f"{self.at(name)}: {what} one of {', '.join(named)}. "
                f"{near}Set {self.at(name)}={named[0]}{'' if '' in allowed else ' or another'}"
                f"{', or null' if '' in allowed else ''}."
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false; `default` when absent or null."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(name, value, "true or false", f"Set {self.at(name)}=true or false.")
        return value

    def optional_number(
        self, name: str, *, above: float = 0.0, most: float = bounds.MOST_NUMBER
    ) -> float | None:
        """A finite number greater than `above`, or None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        return bounds.number(f"{self.at(name)}", value, above=above, most=most, is_optional=True)

    def number(self, name: str, *, above: float = 0.0, most: float = bounds.MOST_NUMBER) -> float:
        """A finite number greater than `above`."""
        value = self._required(
            name, bounds.number_text(above), bounds.plain(bounds.nearest_number(None, above, most))
        )
        return bounds.number(f"{self.at(name)}", value, above=above, most=most, is_optional=False)

    def optional_count(
        self, name: str, *, least: int = 1, most: int = bounds.MOST_COUNT
    ) -> int | None:
        """A whole number from `least` to `most`, or None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        return bounds.count(f"{self.at(name)}", value, least=least, most=most)

    def count(
        self,
        name: str,
        *,
        least: int = 1,
        most: int = bounds.MOST_COUNT,
        default: int | None = None,
    ) -> int:
        """A whole number from `least` to `most`; `default` when absent or null."""
        if default is None:
            self._required(name, bounds.count_text(least), str(least))
        value = self.optional_count(name, least=least, most=most)
        if value is None:
            assert default is not None
            return default
        return value

    def optional_share(self, name: str) -> float | None:
        """A number above 0 and up to 1, or None when absent or null."""
        return self.optional_number(name, most=1.0)

    def counts(self, name: str) -> tuple[int, ...]:
        """Whole numbers of at least 1; none when absent or null."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self._error(
                name,
                value,
                "a list of whole numbers of at least 1",
                f"Write {self.at(name)}=[16,20,28], or null.",
            )
        return tuple(
            bounds.count(f"{self.at(name)}[{index}]", item, least=1, most=bounds.MOST_COUNT)
            for index, item in enumerate(value)
        )

    def choices(
        self, name: str, allowed: Sequence[str], default: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Some of the allowed texts; the default when absent or null."""
        values = self.texts(name)
        for value in values:
            if value not in allowed:
                raise self._error(
                    name,
                    value,
                    f"one of {', '.join(allowed)}",
                    f"{did_you_mean(value, allowed)}Write {name}: [{', '.join(default)}].",
                )
        return values or default

    def rates(self, name: str, scale: float) -> tuple[tuple[str, float], ...]:
        """Positive numbers by data type; a type that is absent or null is unknown."""
        table = self._take(name)
        if table is None:
            return ()
        if not isinstance(table, Mapping):
            raise self._error(name, table, "a table by data type", "Write {bf16: 989}.")
        reader = Reader(table, f"{self.at(name)}")
        found = [(dtype, reader.optional_number(dtype)) for dtype in PEAK_DTYPES]
        reader.finish()
        return tuple((dtype, value * scale) for dtype, value in found if value is not None)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when absent or null."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._error(name, value, "a list of texts", f"Write {name}: [...].")
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise self._error(f"{name}[{index}]", item, "a text", "Put it in quotes.")
        return tuple(value)

    def nested(self, name: str) -> "Reader | None":
        """The reader of a table below this one, or None when absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._error(name, value, "a table of keys", "Indent its keys below it.")
        return Reader(value, f"{self.at(name)}")

    def list_of_tables(self, name: str) -> Iterator["Reader"]:
        """The readers of a list of tables, of which there must be one at least."""
        value = self._required(name, "a list of tables", "[{name: ...}]")
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self._error(name, value, "a list of tables", "Begin each with a dash.")
        for index, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise self._error(f"{name}[{index}]", item, "a table of keys", "Indent its keys.")
            yield Reader(item, f"{self.at(name)}[{index}]")

    def real(
        self,
        name: str,
        *,
        above: float | None = None,
        least: float = 0.0,
        most: float = MOST_REAL,
        example: float | None = None,
        default: float | None = None,
    ) -> float:
        """A finite number above `above`, or from `least`, to `most`; `default` when it is absent.

        `example` is what an error offers where the bound itself is not allowed.
        """
        value = self._take(name)
        if value is None and default is not None:
            return default
        offered = _plain(example if example is not None else least if above is None else most)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_large = is_number and value > most  # type: ignore[operator]
        low = f"greater than {above:g}" if above is not None else f"of at least {_plain(least)}"
        upper = f" and at most {_plain(most)}" if is_large or most <= SHOWN_BOUND else ""
        allowed = f"a finite number {low}{upper}"
        if value is None:
            raise ConfigError(
                f"{self.at(name)}: missing; it must be {allowed}. "
                f"Set {self.at(name)}={offered} or another."
            )
        # Compared before it is converted: a whole number may be too large for a float.
        if not is_number or value != value or value in (math.inf, -math.inf):
            raise self._error(name, value, allowed, f"Set {self.at(name)}={offered}.")
        if value > most:  # type: ignore[operator]
            raise self._error(name, value, allowed, f"Set {self.at(name)}={_plain(most)}.")
        number = float(value)  # type: ignore[arg-type]
        if number <= above if above is not None else number < least:
            # A sign too many is a likelier mistake than another number.
            is_mirrored = -number > above if above is not None else -number >= least
            near = _plain(-number) if number < 0 and is_mirrored and -number <= most else offered
            raise self._error(name, value, allowed, f"Set {self.at(name)}={near}.")
        return number

    def optional_real(
        self,
        name: str,
        *,
        above: float | None = None,
        least: float = 0.0,
        most: float = MOST_REAL,
        example: float,
    ) -> float | None:
        """The same, or None when it is absent or null."""
        if self.data.get(name) is None:
            self.used.add(name)
            return None
        return self.real(name, above=above, least=least, most=most, example=example)

    def has(self, name: str) -> bool:
        """The key is there and not null."""
        return self.data.get(name) is not None

    def sources(self) -> str:
        """Where the table's values are from: `source` for all of them, `sources` by key, or both.

        Raises:
            ConfigError: when there is neither, or a source of a key that the table does not have.
        """
        whole = self.text("source", "")
        by_key = self.nested("sources")
        if by_key is None:
            if not whole:
                raise ConfigError(
                    f"{self.key}.source: missing; it must be a text, or sources a text by key. "
                    f"Set {self.key}.source=assumed where there is none."
                )
            return whole
        texts = [whole] if whole else []
        for name in by_key.data:
            if name not in self.data:
                raise ConfigError(
                    f"{by_key.key}.{name}: {self.key} has no such key. "
                    f"{did_you_mean(str(name), [str(key) for key in self.data])}Correct or "
                    "remove it."
                )
            texts.append(f"{name}: {by_key.text(str(name))}")
        return "; ".join(texts)

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for name in self.data:
            if name not in self.used:
                raise ConfigError(
                    f"{self.at(name)}: no such key. {did_you_mean(str(name), self.used)}"
                    f"Allowed are {', '.join(sorted(self.used))}."
                )


def _plain(number: float) -> str:
    """Without an exponent, which YAML would take for a text."""
    return str(int(number)) if number == int(number) else f"{number:.12g}"

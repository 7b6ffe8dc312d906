"""Data sets by name, as suites and the command line write them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from ckptbench.base.errors import InputError
from ckptbench.base.text import nearest
from ckptbench.data.raw import RawSet
from ckptbench.plugins import load_plugins
from ckptbench.suites import Data, explain


def parse_data(text: str) -> Data:
    """A data set as typed on a command line: ``folder:PATH?size=64&per_class=100&classes=cat,dog``.

    The options are the fields of ``Data``; ``classes`` is a number, or names with commas between.
    """
    name, _, options = text.partition("?")
    fields: dict[str, object] = {"name": name}
    for option in filter(None, options.split("&")):
        key, equals, value = option.partition("=")
        if key not in Data.model_fields or key == "name":
            raise InputError(
                f"{text!r}: unknown option {key!r}, {nearest(key, set(Data.model_fields) - {'name'})}"
            )
        if not equals or not value:
            raise InputError(f"{text!r}: option {key!r} has no value, as in {key}=...")
        names = key == "classes" and not value.isdecimal()
        fields[key] = tuple(filter(None, value.split(","))) if names else value
    try:
        return Data.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{text!r}: {explain(error)}") from None


def known_sets(plugins: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(name, what it is) of every set that a suite or ``--data`` can name."""
    readers = load_plugins("reader", plugins)
    return [one for spec in readers.specs.values() for one in spec.make().sets()]


def read_set(name: str, download: bool = True, plugins: Sequence[str] = ()) -> RawSet:
    """What there is under a set's name, ``READER`` or ``READER:REST``, with nothing sampled.

    Raises
    ------
    InputError
        If no reader or no set has that name, or the set is not there and may not be downloaded.
    """
    readers = load_plugins("reader", plugins)
    reader, _, rest = name.partition(":")
    if reader not in readers.specs:
        sets = {one: spec.make().sets() for one, spec in readers.specs.items()}
        known = [named[0][0] if len(named) == 1 else f"{one}:NAME" for one, named in sets.items()]
        raise InputError(f"no data set is called {name!r}: {nearest(name, known)}{readers.broken_text}")
    found: RawSet = readers[reader].make().read(rest, download)
    return found

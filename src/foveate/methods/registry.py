"""Methods by name: "coop", or a plug-in over a backbone, "fvgpt+coop".

Methods of this package are registered automatically. Other methods are registered by `register_method`,
or by an entry point of the group "foveate.methods" in their package.
"""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar, cast

import foveate.methods
from foveate.clip.model import Clip
from foveate.configs import mapping, typed
from foveate.errors import InputError
from foveate.methods.base import Method, Wrapper
from foveate.methods.capabilities import ImageAdapter, RegionEncoder
from foveate.methods.config import MethodConfig
from foveate.readers import one_line
from foveate.seeds import stream

GROUP = "foveate.methods"
"""Group of entry points: `name = "package.module:Class"`, each a method class."""

REFERENCE = "zeroshot"
"""The reference method for comparisons: unchanged CLIP."""

Kind = TypeVar("Kind", bound=type[Method])
Settings = Mapping[str, Mapping[str, Any]]
"""Changes to the default settings of each part of a method: {"coop": {"tokens": 16}}."""

_known: dict[str, type[Method]] = {}


def register_method(kind: Kind) -> Kind:
    """Register a method for use by name, in `Classifier`, on the command line, in sweeps and reports.

    It can be used as a class decorator.

    Args:
        kind: A class with its own `name` and `config_type`; its `title` is used too. It is called with
            the towers (a `Wrapper`: with a method), settings, and a generator.

    Raises:
        ValueError: An attribute of the class is missing, or another class has the same name.
    """
    problem = _registration_problem(kind)
    if problem:
        raise ValueError(f"{kind.__module__}.{kind.__qualname__} {problem}")
    _known[kind.name] = kind
    return kind


def _registration_problem(kind: type[Method]) -> str | None:
    """Return what prevents the registration of a class; None if nothing does."""
    name, config = kind.name, kind.config_type
    registered = _known.get(name, kind)
    if not (name.isidentifier() and name == name.lower()):
        return f"has the name {name!r}: give it a name of lower-case letters, digits and underscores"
    if (registered.__module__, registered.__qualname__) != (kind.__module__, kind.__qualname__):
        return f"has the name {name!r}, which is that of {registered.__module__}.{registered.__qualname__}"
    if config is MethodConfig or not is_dataclass(config):
        return "has no settings: give it a config_type, a frozen dataclass that derives from MethodConfig"
    bases = kind.mro()[: kind.mro().index(Method)]
    if any("encode_images" in vars(base) for base in bases) and not (
        kind.tunes_vision or issubclass(kind, Wrapper | ImageAdapter)
    ):
        return "has picture features of its own: set tunes_vision, or make it an ImageAdapter"
    return None


@cache
def _load() -> None:
    """Register the methods of this package and of entry points."""
    for info in iter_modules(foveate.methods.__path__):
        module = import_module(f"{foveate.methods.__name__}.{info.name}")
        for value in list(vars(module).values()):
            defined_here = (
                isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
            )
            if defined_here and vars(value).get("name"):
                register_method(value)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            kind = entry.load()
            if not (isinstance(kind, type) and issubclass(kind, Method)):
                raise ValueError("it is no class of methods")
            register_method(kind)
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise InputError(
                f"the method {entry.name!r} of {package} cannot be used ({error}): mend {package}, or"
                " uninstall it"
            ) from error


def import_methods(method: str) -> str:
    """Import the parts of a method that are written "module:Class", and register them; return the names.

    The module is one that Python can import, or a file below the current folder: "my_method:MyMethod" is
    the class in `my_method.py`. Only names that a user types go through this function. Names in a model's
    files do not, so that loading a model imports nothing.

    Args:
        method: E.g. "fvgpt+my_method:MyMethod".

    Returns:
        E.g. "fvgpt+mine", with the class's own name.

    Raises:
        InputError: There is no such module or class, or it is no method.
    """
    return "+".join(_import_method(part.strip()) if ":" in part else part for part in method.split("+"))


def _import_method(reference: str) -> str:
    module, _, name = reference.partition(":")
    try:
        kind = getattr(_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise InputError(
                f"{reference} is no class of methods: derive it from foveate.methods.base.Method"
            )
        return register_method(kind).name
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise InputError(f"the method {reference} cannot be used ({one_line(error)})") from error


def _module(name: str) -> ModuleType:
    path = Path(*name.split(".")).with_suffix(".py")
    if name in sys.modules or not path.is_file():
        return import_module(name)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def methods() -> dict[str, type[Method]]:
    """Return all methods by name: backbones, then plug-ins, each in alphabetical order."""
    return {**backbones(), **plugins()}


def backbones() -> dict[str, type[Method]]:
    """Return the methods that need no other method."""
    _load()
    return _split(tuple(_known.items()))[0]


def plugins() -> dict[str, type[Wrapper]]:
    """Return the methods over another method."""
    _load()
    return _split(tuple(_known.items()))[1]


@cache
def _split(
    known: tuple[tuple[str, type[Method]], ...],
) -> tuple[dict[str, type[Method]], dict[str, type[Wrapper]]]:
    """Return backbones and plug-ins, each in alphabetical order."""
    wrappers = {name: kind for name, kind in sorted(known) if issubclass(kind, Wrapper)}
    return {name: kind for name, kind in sorted(known) if name not in wrappers}, wrappers


def public_classes() -> dict[str, type]:
    """Return the classes of this package's methods and of their settings, by name."""
    kinds = [
        kind for kind in methods().values() if kind.__module__.startswith(f"{foveate.methods.__name__}.")
    ]
    return {cls.__name__: cls for kind in kinds for cls in (kind, kind.config_type)}


def title(method: str) -> str:
    """Return the name of a method in tables: "fvgpt+mmrl" is "MMRL + FVG-PT"."""
    return " + ".join(methods()[name].title or name for name in reversed(parts(method)))


def parts(method: str) -> list[str]:
    """Split "fvgpt+coop" into plug-ins and backbone, outermost first.

    Raises:
        InputError: A part does not exist (the message suggests a similar one), is repeated, or is
            misplaced.
    """
    if not isinstance(method, str):
        raise InputError(f"method is of type {type(method).__name__}: give its name, such as 'fvgpt+coop'")
    names = [name.strip().lower().replace("-", "_") for name in method.split("+")]
    known, wrappers = methods(), plugins()
    for name in names:
        if name not in known:
            choices = [*backbones(), *(f"{plugin}+coop" for plugin in wrappers)]
            similar = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(choices)}"
            raise InputError(f"there is no method {name!r}; {hint}")
    *outer, backbone = names
    if backbone in wrappers or any(name not in wrappers for name in outer):
        raise InputError(f"method {method!r}: write plug-ins first and one backbone last, as in 'fvgpt+coop'")
    for plugin in outer:
        wrappers[plugin].check_host(backbone, known[backbone])
    repeated = [name for name in outer if outer.count(name) > 1]
    if repeated:
        raise InputError(f"method {method!r} has {repeated[0]!r} twice; write each plug-in once")
    _check_joint(method, outer, backbone)
    _check_outermost(method, outer, backbone)
    return names


def _check_joint(method: str, outer: list[str], backbone: str) -> None:
    """Refuse a jointly trained plug-in that is not directly before the backbone."""
    joint = [name for name in outer if plugins()[name].joint]
    if len(joint) > 1:
        raise InputError(
            f"method {method!r}: {' and '.join(joint)} are each trained together with the backbone: take one"
        )
    if joint and outer[-1] != joint[0]:
        corrected = "+".join([*(name for name in outer if name not in joint), *joint, backbone])
        raise InputError(
            f"method {method!r}: {joint[0]} is trained together with its backbone, so it stands directly"
            f" before it: write {corrected!r}"
        )


def _check_outermost(method: str, outer: list[str], backbone: str) -> None:
    """Refuse a plug-in over another one that must be outermost."""
    outermost = [name for name in outer if plugins()[name].outermost]
    if len(outermost) > 1:
        raise InputError(
            f"method {method!r}: nothing can stand over {' or '.join(outermost)}: take one of them"
        )
    if outermost and outer[0] != outermost[0]:
        corrected = "+".join([*outermost, *(name for name in outer if name not in outermost), backbone])
        raise InputError(f"method {method!r}: nothing can stand over {outermost[0]}: write {corrected!r}")


def pairs() -> list[str]:
    """Return all valid pairs of a plug-in and a backbone: "fvgpt+coop" and so on."""
    return [
        f"{plugin}+{backbone}" for plugin in plugins() for backbone in backbones() if _fits(plugin, backbone)
    ]


def _fits(plugin: str, backbone: str) -> bool:
    try:
        plugins()[plugin].check_host(backbone, backbones()[backbone])
    except InputError:
        return False
    return True


def needs_masks(method: str, settings: Settings | None = None) -> bool:
    """Return whether a part of a method, with these settings, trains on foreground masks."""
    return any(config.needs_masks for config in configure(method, settings).values())


def sees_regions(method: str) -> bool:
    """Return whether a part of a method uses a region of each test picture, given by a mask."""
    return any(issubclass(methods()[name], RegionEncoder) for name in parts(method))


def needs_val(method: str, settings: Settings | None = None) -> bool:
    """Return whether a part of a method chooses settings on validation pictures."""
    return any(config.needs_val for config in configure(method, settings).values())


def stages(method: str) -> list[str]:
    """Return the training stages of a method, in order.

    "fvgpt+coop" is ["coop", "fvgpt+coop"]; "fvgpt+dapt+maple" is ["dapt+maple", "fvgpt+dapt+maple"], because
    DAPT is trained together with MaPLe.
    """
    names = parts(method)
    joint = [name for name, kind in plugins().items() if kind.joint]
    starts = [i for i in range(len(names)) if i == 0 or names[i - 1] not in joint]
    return ["+".join(names[i:]) for i in reversed(starts)]


def configure(method: str, settings: Settings | None = None) -> dict[str, MethodConfig]:
    """Return the settings of each part as its dataclass.

    Raises:
        InputError: A part or a setting does not exist, or a value has the wrong type.
    """
    message = f"settings is {settings!r}: give a dictionary, as in {{'coop': {{'tokens': 4}}}}"
    names, values = parts(method), mapping(settings, message)
    unknown = sorted(values.keys() - set(names))
    if unknown:
        raise InputError(f"settings for {unknown[0]!r}, but the method is {method!r}")
    return {name: _configured(name, values.get(name, {})) for name in names}


def _configured(name: str, values: object) -> MethodConfig:
    """Return the settings of one part as its dataclass."""
    config = methods()[name].config_type
    return config(**typed(config, values, name))


def build(method: str, clip: Clip, settings: Settings | None = None, seed: int = 0) -> Method:
    """Build a method over frozen towers, untrained.

    Args:
        method: Name of the method, e.g. "fvgpt+coop".
        clip: The towers.
        settings: Changes to the default settings of each part.
        seed: Seed of the initial values; each part has its own stream of it.
    """
    configs = configure(method, settings)
    *outer, backbone = parts(method)
    kind = cast("Any", backbones()[backbone])  # each class has this signature
    built: Method = kind(clip, configs[backbone], stream(seed, "init", backbone))
    for plugin in reversed(outer):
        built = wrap(plugin, built, settings, seed)
    return built


def build_stage(
    stage: str, clip: Clip, below: Method | None, settings: Settings | None = None, seed: int = 0
) -> Method:
    """Build what one stage trains.

    Args:
        stage: One of `stages`.
        clip: The towers.
        below: Trained method of the previous stage, which a plug-in wraps; None in the first stage.
        settings: Changes to the default settings of each part of the whole method.
        seed: Seed of the initial values.
    """
    part_settings = {name: dict(values) for name, values in (settings or {}).items()}
    if below is not None:
        return wrap(parts(stage)[0], below, part_settings, seed)
    return build(
        stage, clip, {name: values for name, values in part_settings.items() if name in parts(stage)}, seed
    )


def wrap(plugin: str, built: Method, settings: Settings | None = None, seed: int = 0) -> Method:
    """Build a plug-in over a trained method."""
    config = _configured(plugin, (settings or {}).get(plugin, {}))
    return cast("Any", plugins()[plugin])(built, config, stream(seed, "init", plugin))

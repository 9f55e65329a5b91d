"""A tuned backbone for a plug-in; it is not trained again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.naming import clean_name
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.memory import digest_of
from foveate.methods.base import Method
from foveate.methods.registry import Settings, build, configure, needs_masks, parts, plugins, stages
from foveate.train.checkpoint import ModelConfig, load_model
from foveate.train.sharing import download


@dataclass(frozen=True)
class TunedBackbone:
    """A tuned model as the inner method of a plug-in.

    Attributes:
        source: Folder or hub id of the model, for messages.
        config: Config of the model.
        tensors: Learned tensors of the model.
    """

    source: str
    config: ModelConfig
    tensors: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """Hash of the learned tensors, 16 hex digits."""
        return digest_of(self.tensors)

    def check_towers(self, clip: Clip, source: str) -> None:
        """Refuse towers that the backbone was not tuned on.

        Args:
            clip: The current towers.
            source: Name of the towers in messages.

        Raises:
            InputError: Weights or precision differ.
        """
        tuned, current = self.config.precision, clip.precision
        if tuned != current:
            raise InputError(
                f"backbone {self.source} was tuned on towers in {tuned}, and these are in {current}:"
                f" give --dtype {tuned}"
            )
        if self.config.fingerprint != clip.fingerprint():
            raise InputError(
                f"backbone {self.source} was tuned on {self.config.clip} with weights"
                f" {self.config.fingerprint}, but {source} has {clip.fingerprint()}: give the right ones"
                " with --clip"
            )

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse classes that differ from those of the backbone; their order does not matter.

        Raises:
            InputError: The classes differ; the message names one.
        """
        tuned, current = (
            {_key(name): name for name in class_names} for class_names in (self.config.names, names)
        )
        only_tuned = next((tuned[key] for key in tuned if key not in current), None)
        only_current = next((current[key] for key in current if key not in tuned), None)
        if only_tuned is not None or only_current is not None:
            differences = [f"{only_tuned!r} is not among those drawn here"] if only_tuned is not None else []
            differences += [f"it was not tuned on {only_current!r}"] if only_current is not None else []
            raise InputError(
                f"backbone {self.source} was tuned on other classes: {' and '.join(differences)};"
                " take the data and the --classes it was tuned on"
            )

    def template(self, given: str | None) -> str | None:
        """Return the template of the backbone; for an imported model without one, the given template.

        Raises:
            InputError: The given template differs.
        """
        tuned = self.config.template
        if tuned is None and self.config.imported:
            return given
        if given is not None and given != tuned:
            raise InputError(
                f"backbone {self.source} was tuned with template {tuned!r}, not {given!r}: leave it out, or"
                " tune the backbone with it"
            )
        return tuned

    def settings_of(self, method: str, given: Settings) -> dict[str, dict[str, Any]]:
        """Return the settings of a plug-in over this backbone; the backbone's parts keep their settings.

        Args:
            method: Name of the whole method, e.g. "fvgpt+coop".
            given: Requested settings of each part.

        Raises:
            InputError: A requested setting differs from that of the backbone.
        """
        tuned = _settings(self.config.method, self.config.settings)
        requested = _settings(method, given)
        for part in tuned:
            for name in given.get(part, {}):
                old, new = tuned[part][name], requested[part][name]
                if old != new:
                    raise InputError(
                        f"{part}.{name} is {new!r}, but backbone {self.source} was tuned with {old!r}:"
                        " leave it out, or give another backbone"
                    )
        return {**requested, **tuned}

    def notes(self, photos: Photos) -> list[str]:
        """Return notes for the user, given the pictures drawn for the plug-in."""
        exchanged = str(self.config.recipe.get("augment")).startswith("exchange")
        masked = exchanged or needs_masks(self.config.method, self.config.settings)
        data_hash = photos.digest(masks=masked)[:16]
        if not self.config.data or self.config.data == data_hash:
            return []
        return [
            f"backbone {self.source} was tuned on other pictures than those drawn here: what is held out now,"
            " it may have seen"
        ]

    def build(self, clip: Clip, names: Sequence[str], template: str | None) -> Method:
        """Return the backbone as a method, with its classes set.

        Args:
            clip: The towers that it was tuned on.
            names: Class names of the plug-in's training.
            template: The data set's sentence.

        Raises:
            InputError: The classes differ, or the tensors do not fit.
        """
        self.check_names(names)
        method = build(self.config.method, clip, self.config.settings, self.config.seed)
        try:
            method.load_learned(self.tensors)
        except InputError as error:
            raise InputError(f"backbone {self.source}: {error}") from error
        method.set_classes(self.config.names, template)  # class-specific vectors are in this order
        method.set_classes(names, template)
        return method.eval()


def load_backbone(source: str | Path, method: str) -> TunedBackbone:
    """Load a tuned model as the inner part of `method`.

    Args:
        source: Folder of a tuned model, or a hub id.
        method: Name of the whole method, e.g. "fvgpt+coop" with the inner part "coop".

    Raises:
        InputError: There is no tuned model, or its method is not the inner part.
    """
    *inner, _ = stages(method)
    if not inner:
        hint = " tuned before it" if parts(method)[0] in plugins() else ""
        raise InputError(
            f"method {method!r} stands on no backbone{hint}: leave --backbone out, or take"
            f" --method fvgpt+{method}"
        )
    local = Path(source).expanduser()
    config, tensors = load_model(local if local.exists() else download(str(source)))
    if config.method != inner[-1]:
        raise InputError(
            f"backbone {source} is {config.method!r}, but method {method!r} stands on"
            f" {inner[-1]!r}: give another folder, or another --method"
        )
    return TunedBackbone(str(source), config, tensors)


def _settings(method: str, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: asdict(config) for name, config in configure(method, settings).items()}


def _key(name: str) -> str:
    return clean_name(name).casefold()

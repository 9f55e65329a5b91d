"""`foveate fit`: train a classifier on a few labelled photos."""

from collections.abc import Sequence
from dataclasses import replace

from foveate.commands.options import Command, Option, asks_for_help, fields_of, peek, settings_of
from foveate.methods.config import is_auto
from foveate.methods.configs import CONFIGS
from foveate.train.config import MASKS, RunConfig
from foveate.train.recipe import Recipe

SUMMARY = "Learn a classifier from a few labelled photos; run again, a stopped run goes on."
EXAMPLES = """
    foveate fit photos/ --method auto --out out/mine             # compare methods, take the best
    foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
    foveate fit photos/ --masks masks/ --method fvgpt+coop --backbone out/coop --out out/guided
    foveate fit photos/ --masks masks/ --config configs/table3.yaml --out out/table3
    foveate fit photos/ --method coop --select herding --fraction 0.2 --out out/few
    foveate fit photos.csv --method coop --coop.tokens 16 --epochs 50 --out out/coop
    foveate fit split_zhou_Caltech101.json --images 101_ObjectCategories/ --masks mask/ \\
        --clip openai/clip-vit-base-patch16 --classes base --out out/caltech
    foveate fit --method mmrl --help                            # the settings of another method
"""
GROUPS = {
    "reading pictures and masks": (*MASKS, "images", "on_bad", "strict_shots"),
    "keeping features of frozen towers": ("bank", "bank_dir", "bank_dtype"),
}
OWN = (
    Option("out", str, None, "Folder of the run and of the tuned model.", required=True),
    Option(
        "columns",
        str | dict[str, str] | None,
        None,
        "What a list calls its columns, if otherwise: image=photo,label=species.",
        group="reading pictures and masks",
    ),
    Option("row", str, None, "Of a file with rows, fit this one alone, by its name."),
)


def run(words: Sequence[str]) -> None:
    """Run the command; under torchrun all processes train together."""
    method = peek("fit", "method", words) or RunConfig.method
    if ":" in method:
        from foveate.methods.registry import import_methods

        registered = import_methods(method)
        words = [
            registered if word == method else word.replace(f"={method}", f"={registered}") for word in words
        ]
        method = registered
    if asks_for_help(words):
        declared(method, alone=True).read(words)
    from foveate.commands.learning import fit  # the help needs no PyTorch

    fit(declared(method), words)


def declared(method: str, *, alone: bool = False) -> Command:
    """Return all options of `foveate fit`; the help shows the recipe and the settings of one method.

    Args:
        method: Name of the method in the help.
        alone: Whether to leave out the settings of other methods.
    """
    auto, config_types = is_auto(method), CONFIGS
    parts = [] if auto else method.lower().replace("-", "_").split("+")
    if not set(parts) <= config_types.keys():  # a method of another package, or an unknown one
        from foveate.methods.registry import methods

        config_types = {name: method_class.config_type for name, method_class in methods().items()}
    common = fields_of(RunConfig, groups=GROUPS, placed="photos", exclude=("columns", "recipe", "settings"))
    method_recipe = config_types[parts[-1]].recipe if parts and parts[-1] in config_types else {}
    recipe = [] if auto and alone else fields_of(replace(Recipe(), **method_recipe), group="training")
    settings = [
        setting
        for part in ([part for part in parts if part in config_types] if alone else config_types)
        for setting in settings_of(part, config_types[part], shown=part in parts)
    ]
    return Command("fit", [*OWN, *common, *recipe, *settings], SUMMARY, EXAMPLES)

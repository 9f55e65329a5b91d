"""Output of `foveate fit --method auto`: the choice and its reasons."""

import sys

from foveate.auto.choice import Choice, interval_text
from foveate.commands.screen import note, print_table


def print_choice(choice: Choice) -> None:
    """Print the methods that were tried, the best first, and what to expect of the chosen one."""
    rows = [
        [
            row.title,
            f"{row.accuracy.value:.1f}",
            f"{row.accuracy.low:.1f} to {row.accuracy.high:.1f}",
            "chosen" if row.title == choice.chosen else "",
        ]
        for row in choice.rows
    ]
    print_table(["method", "right, held out", "90 % interval", ""], rows)
    lines = [choice.verdict, f"Expected on new photos like these: {interval_text(choice.expected)} right."]
    if choice.forecasts:
        forecasts = ", ".join(
            f"{interval_text(forecast.accuracy)} with {forecast.more} more" for forecast in choice.forecasts
        )
        lines.append(f"More photos a class, with {choice.forecast_of}: {forecasts}.")
    else:
        lines.append("What more photos would bring cannot be said: too few photos, or the time was over.")
    sys.stdout.write("".join(f"{line}\n" for line in ["", *lines]))
    for title, reason in choice.left_out.items():
        note(f"{title} was not tried: {reason}")

"""`percepta models`, `describe` and `doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from percepta.apps.cli.common import Debug, Json, say
from percepta.errors import BadInput

MODELS_EXAMPLES = """\b
Examples:
  percepta models
  percepta models "pe-core-*" --json
"""
DESCRIBE_EXAMPLES = """\b
Examples:
  percepta describe pe-core-l14-336
  percepta describe pe-core-nano --json
"""
DOCTOR_EXAMPLES = """\b
Examples:
  percepta doctor
  percepta doctor --json
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("models", epilog=MODELS_EXAMPLES)(models)
    app.command("describe", epilog=DESCRIBE_EXAMPLES)(describe)
    app.command("doctor", epilog=DOCTOR_EXAMPLES)(doctor)


def models(
    pattern: Annotated[str, typer.Argument(metavar="[GLOB]", help='Such as "pe-core-*".')] = "*",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models: size, weights, purpose."""
    from percepta import catalog

    names = catalog.list_models(pattern)
    if not names:
        raise BadInput(f"no model fits {pattern!r}; see: percepta models")
    cards = []
    for name in names:
        try:
            cards.append(catalog.describe(name))
        except BadInput as error:  # a saved setting whose file is damaged does not hide the others
            say(str(error))
    if as_json:
        for card in cards:
            print(json.dumps(card.to_dict()))
        return
    width = max(len(name) for name in names)
    for card in cards:
        size = f"{card.parameters / 1e6:,.0f} M" if card.parameters else ""
        print(f"{card.name:<{width}}  {size:>7}  {card.weights:<10}  {card.summary}")


def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `percepta models`, or an official one.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model's card: inputs, scores, limits."""
    from percepta import catalog

    card = catalog.describe(name)
    print(json.dumps(card.to_dict()) if as_json else card)


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Check the installation, and say what is missing.

    Versions, devices, weights, the index and extras, each with the command that mends it."""
    from percepta.tasks.doctor import doctor as examine

    topic, findings = "", examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        if as_json:
            print(json.dumps(finding.to_dict()))
            continue
        if finding.topic != topic:
            print(f"{'' if not topic else chr(10)}{finding.topic}")
            topic = finding.topic
        advice = f"  ->  {finding.advice}" if finding.advice else ""
        print(f"  {'ok' if finding.good else '--'}  {finding.subject:<{width}}  {finding.found}{advice}")

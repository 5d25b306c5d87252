"""`wwonnx explain`: what the code of a finding means."""

from __future__ import annotations

import textwrap

import click

from ..check.rules import RULES, Rule, rule


@click.command("explain", short_help="What the code of a finding means, and what to do.")
@click.argument("code", required=False)
def command(code: str | None) -> int:
    """Explain a rule of 'wwonnx check': what CODE finds, why it matters and what to do. Without CODE: list them all."""
    if code is None:
        for each in RULES:
            click.echo(f"{each.code}  {each.name:18} {each.summary}")
        return 0
    click.echo(_explained(rule(code)))
    return 0


def _explained(wanted: Rule) -> str:
    limit = f"Set by --{wanted.limit}." if wanted.limit else ""
    parts = [wanted.summary, f"Why: {wanted.why}", f"What to do: {wanted.mend}", limit]
    paragraphs = [textwrap.fill(part, 88) for part in parts if part]
    return f"{wanted.code} {wanted.name}\n\n" + "\n\n".join(paragraphs)

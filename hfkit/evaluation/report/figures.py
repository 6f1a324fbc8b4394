"""Figures as they are printed, everywhere alike."""

from __future__ import annotations

from hfkit.evaluation.result import Score


def figure(value: float) -> str:
    """Three decimals for what lies between -10 and 10, as most metrics do; four digits of a larger one."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def signed(value: float) -> str:
    return f"+{figure(value)}" if value >= 0 else figure(value)


def interval(low: float, high: float) -> str:
    return f"{figure(low)} … {figure(high)}"


def signed_interval(found: tuple[float, float] | None, of: str = "groups") -> str:
    """`of` is what there are too few of where there is no interval."""
    return f"none: too few {of}" if found is None else f"{signed(found[0])} … {signed(found[1])}"


def probability(p_value: float) -> str:
    """A p-value. The permutation test draws 10,000 times and so says nothing finer than 0.0001."""
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.4f}"


def score_text(score: Score) -> str:
    return "none" if score.value is None else figure(score.value)


def score_interval(score: Score) -> str:
    if score.value is None:
        return ""
    return f"none: too few groups ({score.groups})" if score.interval is None else interval(*score.interval)


def score_with_interval(score: Score) -> str:
    if score.value is None:
        return score_text(score)
    found = f"no interval: {_groups(score)}" if score.interval is None else interval(*score.interval)
    return f"{score_text(score)} ({found})"


def _groups(score: Score) -> str:
    return f"{score.groups} group{'' if score.groups == 1 else 's'}"


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

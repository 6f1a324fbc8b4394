"""The chat templates that come with hfkit, for models that have none: `builtin:chatml` and `builtin:plain`."""

from __future__ import annotations

from importlib.resources import files

from hfkit.errors import RequestError

BUILTIN = "builtin:"


def builtin_template(name: str) -> str:
    """The Jinja text of `builtin:NAME`. Raises RequestError where there is none of that name."""
    wanted = name.removeprefix(BUILTIN)
    folder = files("hfkit.data").joinpath("templates")
    known = sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))
    if wanted not in known:
        raise RequestError(
            f"model.chat_template: there is no {name}; there are {', '.join(BUILTIN + one for one in known)}"
        )
    return folder.joinpath(f"{wanted}.jinja").read_text(encoding="utf-8")

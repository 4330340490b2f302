"""``lightning-fed init``: a folder to start from, for a simulation, a coordinator, a site or a privacy officer."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from jsonargparse import Namespace

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.errors import ConfigError
from lightning_fed.files import remedy
from lightning_fed.transport.card import check_name
from lightning_fed.transport.identity import Identity, new_identity, write_identity

Role = Literal["coordinator", "site", "simulation", "policy"]

_FILES: dict[Role, dict[str, str]] = {
    "simulation": {"README.md": "simulation.md"}
    | {name: name for name in ("simulation.yaml", "simulation.schema.json", "model.py")},
    "coordinator": {"README.md": "coordinator.md"}
    | {name: name for name in ("coordinator.yaml", "coordinator.schema.json", "model.py")},
    "site": {"README.md": "site.md"}
    | {name: name for name in ("site.yaml", "policy.yaml", "policy.schema.json", "model.py")},
    "policy": {"README.md": "policy.md"} | {name: name for name in ("policy.yaml", "policy.schema.json")},
}
"""The template of each file, by its name in the folder."""

_NAME = "SITE_NAME"
"""Stands in templates for the site's name, within quotes where YAML could take a name for something else."""


def run(arguments: Sequence[str]) -> int:
    """Write a folder to start from.

    Raises:
        ConfigError: something is missing and there is no terminal to ask at, or a file exists or cannot be written.
        IdentityError: the name is not allowed.
    """
    options = _parser().parse_args(list(arguments[1:]))
    role = _given_role(options)
    folder = Path(options.folder or _asked("--folder", f"Folder to write [{role}]: ") or role)
    name = _name(role, options)
    identity = new_identity(name) if role in ("coordinator", "site") else None
    write_folder(role, folder, name, identity)
    print(f"{folder} is ready. Next:\n  cd {folder}\n  less README.md")
    if role == "simulation":
        print("  lightning-fed simulate --config simulation.yaml")
    elif role == "policy":
        print(f"  lightning-fed doctor policy --policy policy.yaml --site {name}")
    elif identity is not None:
        print(f"keys/{identity.name}.key is secret and stays there; the fingerprint is {identity.card.fingerprint}")
    return 0


def write_folder(role: Role, folder: Path, name: str, identity: Identity | None) -> None:
    """Write all files of a role, or none.

    Args:
        role: whose files.
        folder: where; made if it is not there.
        name: the member's; empty for a simulation, which has many.
        identity: the member's keys; None for a simulation, which makes its own, and for a policy, which has none.

    Raises:
        ConfigError: one of the files exists, as nothing is ever overwritten, or one cannot be written.
    """
    templates = files("lightning_fed.cli") / "templates"
    content = {
        target: (templates / template).read_text(encoding="utf-8").replace(_NAME, name)
        for target, template in _FILES[role].items()
    }
    keys = [f"keys/{name}.{suffix}" for suffix in ("key", "pub")] if identity else []
    path = folder
    try:
        for path in (folder / target for target in (*content, *keys)):
            if path.exists() or path.is_symlink():
                raise _exists(path)
        path = folder
        with _undone_on_failure() as undo:
            _make(folder, undo)
            for target, text in content.items():
                path = folder / target
                with path.open("x", encoding="utf-8") as file:
                    undo(path.unlink)
                    file.write(text)
            if identity is not None:
                path = folder / "keys"
                # As write_identity makes it; here, because it goes again if that fails.
                _make(path, undo, mode=0o700)
                write_identity(identity, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}. Nothing was left behind. {remedy(error)}, or choose another "
            "folder (--folder)."
        ) from error


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed init",
        description="Write a folder to start from: config, policy, keys, a module that trains, and what to do next; "
        "or only a policy, for a privacy officer. "
        "What is not given is asked for. Nothing is ever overwritten.",
    )
    parser.add_argument("--role", type=Role | None, default=None, help="whom the folder is for")
    parser.add_argument("--folder", type=str | None, default=None, help="where to write; may exist")
    parser.add_argument("--name", type=str | None, default=None, help="the site's name: letters, digits, '-', '_', '.'")
    return parser


def _given_role(options: Namespace) -> Role:
    role = options.role or _asked("--role", f"Role ({', '.join(get_args(Role))}): ")
    if role not in _FILES:
        raise ConfigError(f"the role {role!r} is none of {', '.join(get_args(Role))}. Choose one of them (--role).")
    return role


def _name(role: Role, options: Namespace) -> str:
    """Whose folder it is; empty for a simulation.

    Raises:
        ConfigError: a name for who has none of their own, or the coordinator's for a site.
        IdentityError: the name is not allowed.
    """
    if role not in ("site", "policy"):
        if options.name is not None:
            raise ConfigError(f"--name is a site's, and the role is {role}. Leave it out.")
        return "coordinator" if role == "coordinator" else ""
    name = options.name or _asked("--name", "The site's name: ")
    if name == "coordinator":
        raise ConfigError("a site cannot be named 'coordinator'. Choose another name (--name).")
    check_name(name)
    return str(name)


def _asked(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"{option} is missing, and there is no terminal to ask at. Give it on the command line.")
    try:
        return input(question).strip()
    except EOFError as error:
        raise ConfigError(f"{option} was not answered. Give it on the command line.") from error


def _make(folder: Path, undo: Callable[[Callable[[], None]], object], mode: int = 0o777) -> None:
    """Make a folder and those above it, each of which goes again if what follows fails."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make(folder.parent, undo)
        folder.mkdir(mode=mode)
        undo(folder.rmdir)


@contextmanager
def _undone_on_failure() -> Iterator[Callable[[Callable[[], None]], object]]:
    """Gives a function that takes what to do, in reverse order, if the block fails or is interrupted."""
    with ExitStack() as stack:

        def undo(step: Callable[[], None]) -> None:
            stack.callback(_try, step)

        yield undo
        stack.pop_all()


def _try(step: Callable[[], None]) -> None:
    with suppress(OSError):
        step()


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists. Nothing was written, as nothing is ever overwritten: move it away first, or choose another "
        "folder (--folder)."
    )

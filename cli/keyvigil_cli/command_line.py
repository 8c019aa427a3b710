"""What every command has: the shared options, a way to the API, and one place where failures become words.

Importing this does not load the AWS SDK, which takes long: `keyvigil --help` is asked often.
"""

import inspect
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Concatenate

import typer
from rich.console import Console, RenderableType

from keyvigil_cli.errors import CliError
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import as_json, printable_lines
from keyvigil_cli.progress import News, working
from keyvigil_cli.settings import DEFAULT_STACK, OutputFormat, Settings
from keyvigil_cli.table import print_all
from keyvigil_cli.teller import Teller

if TYPE_CHECKING:
    import boto3

    from keyvigil_cli.api_client import ApiClient, JsonObject

type Command[**P] = Callable[Concatenate[Run, P], ExitStatus | None]

# Seconds, 41 in all: a request that is under way ends with its function, which may take 30.
_PAUSES_BEFORE_REPEATING = (1.0, 5.0, 5.0, 10.0, 10.0, 10.0)
_MOST_SILENCES = 3

_PIPE_WIDTH = 140

_PANEL = "Where KeyVigil is, and how to print"

Profile = Annotated[str | None, typer.Option(help="Profile of your AWS settings.", rich_help_panel=_PANEL)]
Region = Annotated[
    str | None,
    typer.Option(help="Region that KeyVigil is deployed in; your AWS settings' otherwise.", rich_help_panel=_PANEL),
]
Stack = Annotated[
    str | None,
    typer.Option(
        help=f"Stack whose API is called (or KEYVIGIL_STACK).  [default: {DEFAULT_STACK}]", rich_help_panel=_PANEL
    ),
]
ApiUrl = Annotated[
    str | None,
    typer.Option(help="The API's address (or KEYVIGIL_API_URL), for those who may not see the stack.",
                 rich_help_panel=_PANEL),
]  # fmt: skip
Output = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", help="`table` for people, `json` for programs.", rich_help_panel=_PANEL),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]

_SHARED: dict[str, Any] = {"profile": Profile, "region": Region, "stack": Stack, "api_url": ApiUrl, "output": Output}


class NotConfirmedError(CliError):
    """The person did not mean it, or nobody could be asked."""


class Run:
    """One run of a command: where KeyVigil is, and where answers go.

    Data goes to standard output; messages, progress and questions go to standard error.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the options. Nothing is loaded or called before it is needed."""
        self.settings = settings

    @property
    def wants_json(self) -> bool:
        """Whether a program reads the answer."""
        return self.settings.output == "json"

    @cached_property
    def output(self) -> Console:
        """Standard output."""
        return Console(highlight=False, markup=False, emoji=False)

    @cached_property
    def told(self) -> Console:
        """Standard output, for commands whose data is a story in lines: not broken at 80 columns in a pipe."""
        console = Console()
        return console if console.is_terminal else Console(width=_PIPE_WIDTH)

    @cached_property
    def teller(self) -> Teller:
        """Tells on standard error what a command does that takes minutes."""
        return Teller(self.messages)

    @cached_property
    def messages(self) -> Console:
        """Standard error."""
        return Console(stderr=True, highlight=False, emoji=False)

    @cached_property
    def session(self) -> "boto3.Session":
        """The caller's AWS settings."""
        from keyvigil_cli.connection import session_of  # noqa: PLC0415 - loads the AWS SDK

        return session_of(self.settings)

    @cached_property
    def api(self) -> "ApiClient":
        """The API, found once."""
        with self.working("finding the API"):
            from keyvigil_cli.connection import api_of  # noqa: PLC0415 - loads the AWS SDK

            return api_of(self.settings)

    def working(self, words: str) -> AbstractContextManager[News]:
        """Say what is being waited for, if it takes longer than a second."""
        return working(self.messages, words)

    def items(self, words: str, *segments: str, **query: str) -> "list[JsonObject]":
        """Read all pages of a list."""
        return list(self.each(words, *segments, **query))

    def each(self, words: str, *segments: str, **query: str) -> "Iterator[JsonObject]":
        """Go through all pages of a list, and tell how far that is."""
        api = self.api
        with self.working(words) as news:
            for count, item in enumerate(api.items(*segments, limit="200", **query), start=1):
                news(f"{count} so far")
                yield item

    def create(self, words: str, *segments: str, body: "JsonObject") -> "JsonObject":
        """POST something new. When no answer came, it is asked for again: the same request creates once."""
        from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError  # noqa: PLC0415 - loads the AWS SDK

        api, key, silences = self.api, str(uuid.uuid4()), 0
        with self.working(words) as news:
            for pause in _PAUSES_BEFORE_REPEATING:
                try:
                    return api.post(*segments, body=body, idempotency_key=key)
                except ApiUnreachableError:
                    silences += 1
                    if silences == _MOST_SILENCES:
                        raise
                    news("no answer; asking again")
                except ApiProblemError as error:
                    # The first request is still being answered.
                    if error.status != HTTPStatus.CONFLICT or error.retry_after_seconds is None:
                        raise
                    news("it is being answered; asking again")
                time.sleep(pause)
            return api.post(*segments, body=body, idempotency_key=key)

    def say(self, words: str) -> None:
        """Tell the person something that is no data."""
        self.messages.print(printable_lines(words), markup=False, soft_wrap=True)

    def show(self, answer: object, table: Callable[[], RenderableType | Iterable[RenderableType]]) -> None:
        """Print an answer as it is asked for. The table is made only if it is wanted."""
        if self.wants_json:
            self.output.out(as_json(answer), highlight=False)
            return
        print_all(self.output, table())

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the person means it.

        Raises:
            NotConfirmedError: they do not, or there is nobody to ask.
        """
        if yes:
            return
        self.say(question)
        if not sys.stdin.isatty():
            message = "nothing was changed: there is nobody to ask here; add --yes if it is meant"
            raise NotConfirmedError(message)
        if not typer.confirm("Go on?", err=True):
            raise NotConfirmedError("nothing was changed")


def given(**fields: Any) -> "JsonObject":
    """Return the fields that were given: what was not stays the API's default, or as it is."""
    return {name: value for name, value in fields.items() if value is not None}


def changes(**fields: Any) -> "JsonObject":
    """Return the fields to change; naming none is a mistake in using the command."""
    found = given(**fields)
    if not found:
        message = f"say what to change: {', '.join('--' + name.replace('_', '-') for name in fields)}"
        raise typer.BadParameter(message)
    return found


def shared_settings(ctx: typer.Context) -> Settings:
    """Return what the shared options before the command said."""
    found = ctx.obj
    return found if isinstance(found, Settings) else Settings()


def command[**P](group: typer.Typer, name: str | None = None, **settings: Any) -> Callable[[Command[P]], Command[P]]:
    """Make a function a command of a group: with the shared options, and failures told in words.

    The function gets the run first, and returns the exit status unless all is fine.
    """

    def add(function: Command[P]) -> Command[P]:
        group.command(name, **settings)(as_command(function))
        return function

    return add


def as_command[**P](function: Command[P]) -> Callable[..., None]:
    """Return what typer calls for a function: the same parameters, and the shared options."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    taken = {parameter.name for parameter in own}
    shared = [
        inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for each, annotation in _SHARED.items()
        if each not in taken
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    act: Any = function  # its parameters are known to typer, not to mypy

    @wraps(function)
    def run(**values: Any) -> None:
        ctx: typer.Context = values.pop("ctx")
        said = Settings(**{each.name: values.pop(each.name) for each in shared})
        told = shared_settings(ctx).but(said)
        ctx.obj = told
        if ctx.invoked_subcommand is not None:
            return  # a group that is a command too, when only its options were meant
        raise typer.Exit(_carry_out(lambda: act(Run(with_environment(told)), **values), told))

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    made: Any = run
    made.__signature__ = inspect.Signature([context, *parameters, *shared])
    made.__annotations__ = {each.name: each.annotation for each in (context, *parameters, *shared)}
    return run


def with_environment(told: Settings) -> Settings:
    """Add what the environment names, unless an option says where to look: an address before a stack.

    Whoever has an address may not be allowed to look a stack up.
    """
    address = os.environ.get("KEYVIGIL_API_URL") if told.stack is None else None
    environment = Settings(api_url=address or None, stack=os.environ.get("KEYVIGIL_STACK") or None)
    return environment.but(told)


def _carry_out(act: Callable[[], ExitStatus | None], told: Settings) -> int:
    try:
        return int(act() or ExitStatus.FINE)
    except CliError as error:
        return _tell(error, told)
    except Exception as error:
        # The AWS SDK's errors, without loading it to name them.
        if not type(error).__module__.startswith(("botocore.", "boto3.")) and not _is_of_botocore(error):
            raise
        return _tell(error, told)


def _is_of_botocore(error: Exception) -> bool:
    """Errors of single services are classes that the SDK makes as it runs."""
    return any(base.__module__.startswith("botocore.") for base in type(error).__mro__)


def _tell(error: Exception, told: Settings) -> int:
    from keyvigil_cli.advice import advice_on  # noqa: PLC0415 - loads the AWS SDK

    advice = advice_on(error, told)
    messages = Console(stderr=True, highlight=False, markup=False, emoji=False)
    messages.print(f"keyvigil: {advice.what}", soft_wrap=True, style="red")
    for step in advice.next_steps:
        messages.print(f"  {step}", soft_wrap=True)
    return int(advice.status)

"""What went wrong, and what to do next: every failure that a person can meet, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from botocore import exceptions as aws

from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError
from keyvigil_cli.errors import CliError
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable, printable_lines
from keyvigil_cli.settings import DEFAULT_STACK, Settings

_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_WRONG_CODES = frozenset(
    {"InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException",
     "InvalidAccessKeyId", "AuthFailure"}
)  # fmt: skip
_DENIED_CODES = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_THROTTLED_CODES = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})

_NO_VERDICT = "No answer about the KMS key"
"""The contract's words for a probe without an answer."""

_LOG_IN_AGAIN = "Log in again (`aws sso login`, or however you get credentials), and repeat the command."


_OPERATORS_LOG = "If it fails again, the reason is in the operator's log group /aws/lambda/STACK-registry-api."
_MEND = "Mend what is named above, and repeat the command; `--help` says what each option takes."
_STEPS: Mapping[int, tuple[str, ...]] = {
    HTTPStatus.BAD_REQUEST: (_MEND,),
    HTTPStatus.NOT_FOUND: ("See what there is: `keyvigil project list`, or the `list` command of the same kind.",),
    HTTPStatus.UNPROCESSABLE_ENTITY: (_MEND,),
    HTTPStatus.TOO_MANY_REQUESTS: (
        "Too many calls in a short time, even after waiting; nothing was changed. Repeat it in a minute.",
    ),
}
_UNKNOWN_CREDENTIALS = (
    "AWS does not know these credentials: check `--profile`, the key in it, and this machine's clock."
)


@dataclass(frozen=True)
class Advice:
    """What a person is told, and what a script is."""

    what: str
    next_steps: tuple[str, ...]
    status: ExitStatus = ExitStatus.ERROR


def advice_on(error: Exception, settings: Settings) -> Advice:
    """Return what to tell about a failure. An error that already says what to do is only passed on."""
    match error:
        case ApiProblemError():
            return _on_problem(error)
        case ApiUnreachableError():
            return _on_silence(error)
        case aws.ClientError():
            return _on_aws(error, settings)
        case aws.BotoCoreError():
            return _on_settings(error, settings)
        case CliError():
            return Advice(printable_lines(str(error)), error.next_steps)
        case _:
            return Advice(printable(error), ())


def _on_problem(error: ApiProblemError) -> Advice:
    status = _exit_status(error)
    lines = [f"{error.status} {error.title}"]
    if error.detail:
        lines.append(error.detail)
    lines += [f"  {each.get('field', '?')}: {each.get('message', '?')}" for each in error.errors]
    in_the_way = error.problem.get("in_the_way")
    if isinstance(in_the_way, Sequence) and not isinstance(in_the_way, str):
        lines += [f"  in the way: {each}" for each in in_the_way]
    return Advice("\n".join(map(printable, lines)), _steps_after(error), status)


def _exit_status(error: ApiProblemError) -> ExitStatus:
    """A refused key was found unhealthy, or it could not be found out; every other refusal is an error."""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE and (error.cause or error.title == _NO_VERDICT):
        return ExitStatus.UNKNOWN
    return ExitStatus.UNHEALTHY if error.cause else ExitStatus.ERROR


def _steps_after(error: ApiProblemError) -> tuple[str, ...]:
    if error.remediation:
        commands = error.remediation.get("commands") or ()
        return (printable(error.remediation.get("summary", "")), *(f"  {printable(each)}" for each in commands))
    match error.status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return _steps_after_refusal(error.detail)
        case HTTPStatus.NOT_FOUND if not error.written_by_keyvigil:
            return ("There is no KeyVigil API at this address: check `--api-url`, or leave it out and give `--stack`.",)
        case HTTPStatus.CONFLICT:
            return (_step_after_conflict(error),)
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wait = f"in {error.retry_after_seconds} s" if error.retry_after_seconds is not None else "in a minute"
            return (f"Repeat the command {wait}.", _OPERATORS_LOG)
        case status:
            return _STEPS.get(status, ())


def _step_after_conflict(error: ApiProblemError) -> str:
    if error.problem.get("in_the_way"):
        return "Delete what is in the way first."
    if error.retry_after_seconds is not None:
        return f"Repeat the command in {error.retry_after_seconds} s."
    return "Look at it as it is now (the `show` or `list` command of the same kind), then decide."


def _steps_after_refusal(said: str) -> tuple[str, ...]:
    words = said.lower()
    if "expired" in words and "token" in words:
        return (_LOG_IN_AGAIN,)
    if "signature expired" in words or "signature not yet current" in words:
        return ("Set this machine's clock: AWS takes a signature only within five minutes of its time.",)
    if "credential should be scoped" in words:
        return ("The API is in another Region: give its Region with `--region`.",)
    if "security token" in words or "signature" in words:
        return (_UNKNOWN_CREDENTIALS,)
    return (
        "IAM did not allow this call. Ask whoever runs KeyVigil to allow your role `execute-api:Invoke`:",
        "a tenant needs both `.../projects/PROJECT` and `.../projects/PROJECT/*`, an operator `/*`.",
        "Or use other credentials: `--profile NAME`. `aws sts get-caller-identity` says who you are now.",
    )


def _on_silence(error: ApiUnreachableError) -> Advice:
    return Advice(
        printable_lines(str(error)),
        (
            "Check the network: VPN, proxy (HTTPS_PROXY), and the address (`--api-url`, or the stack's output ApiUrl).",
            "Nobody knows whether it arrived: before repeating what changes something, look (`show` or `list`).",
        ),
    )


def _on_aws(error: aws.ClientError, settings: Settings) -> Advice:
    code = str(error.response.get("Error", {}).get("Code", ""))
    what = printable(error)
    if code in _EXPIRED_CODES:
        return Advice(what, (_LOG_IN_AGAIN,))
    if code in _WRONG_CODES:
        return Advice(what, (_UNKNOWN_CREDENTIALS,))
    if code in _DENIED_CODES and error.operation_name == "DescribeStacks":
        stack = settings.stack or DEFAULT_STACK
        return Advice(
            what,
            (
                "Your role may not look the stack up, and need not: give the API's address, `--api-url https://...`.",
                f"The operator finds it in the output ApiUrl of stack {printable(stack)}.",
            ),
        )
    if code in _DENIED_CODES:
        return Advice(what, ("Ask for the permission that is named above, or use other credentials: `--profile`.",))
    if code in _THROTTLED_CODES:
        return Advice(what, ("AWS was asked too often: repeat the command in a minute.",))
    return Advice(what, ())


def _on_settings(error: aws.BotoCoreError, settings: Settings) -> Advice:
    what = printable(error)
    match error:
        case aws.ProfileNotFound():
            return Advice(what, ("`aws configure list-profiles` lists those that there are.",))
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return Advice(what, ("Give credentials: `--profile NAME`, AWS_PROFILE, or `aws configure`.",))
        case aws.UnauthorizedSSOTokenError() | aws.SSOTokenLoadError() | aws.TokenRetrievalError():
            profile = f" --profile {printable(settings.profile)}" if settings.profile else ""
            return Advice(what, (f"Log in again: `aws sso login{profile}`.",))
        case aws.NoRegionError():
            return Advice(what, ("Give the Region that KeyVigil is deployed in: `--region us-west-2`.",))
        case aws.HTTPClientError() | aws.ConnectionError():
            return Advice(
                what,
                ("Check the network (VPN, HTTPS_PROXY), and that `--region` names a Region that there is.",),
            )
        case _:
            return Advice(what, ())

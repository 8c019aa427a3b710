"""The command ``keyvigil``: its groups, and the options that all of them share."""

import typer

from keyvigil_cli.command_line import ApiUrl, Output, Profile, Region, Stack, as_command
from keyvigil_cli.commands import alert, backup, cluster, fleet, imports, incident, key, local, policy, project, silence
from keyvigil_cli.commands.api import api
from keyvigil_cli.commands.demo import demo
from keyvigil_cli.commands.discover import discover
from keyvigil_cli.commands.doctor import doctor
from keyvigil_cli.commands.restore import restore
from keyvigil_cli.commands.uninstall import uninstall
from keyvigil_cli.settings import Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def keyvigil(
    ctx: typer.Context,
    *,
    profile: Profile = None,
    region: Region = None,
    stack: Stack = None,
    api_url: ApiUrl = None,
    output: Output = None,
) -> None:
    """Watch customers' KMS keys, and what depends on them.

    Exit status: 0 fine, 1 error, 2 usage, 3 something is unhealthy, 4 unknown.
    """
    ctx.obj = Settings(profile=profile, region=region, stack=stack, api_url=api_url, output=output)


app.add_typer(project.group, name="project")
app.add_typer(key.group, name="key")
app.add_typer(cluster.group, name="cluster")
app.add_typer(backup.group, name="backup")
app.add_typer(incident.group, name="incident")
app.add_typer(alert.group, name="alert")
app.add_typer(silence.group, name="silence")
app.add_typer(fleet.group, name="fleet")
app.add_typer(policy.group, name="policy")
app.add_typer(local.group, name="local")
app.add_typer(imports.group, name="import")
app.command()(as_command(api))
app.command()(as_command(doctor))
app.command()(as_command(demo))
app.command()(as_command(discover))
app.command()(as_command(restore))
app.command()(as_command(uninstall))

"""DataCrumbs in Flux: ``flux run --datacrumbs-enable --datacrumbs-probe-file PATH ...``.

Flux loads it from the directory that FLUX_CLI_PLUGINPATH names, else from ``cli/plugins`` in its
own configuration directory. It imports the standard library and Flux only: the Python is Flux's.
"""

import os
from pathlib import Path

from flux.cli.plugin import CLIPlugin

ATTRIBUTE = "system.datacrumbs"


class DatacrumbsPlugin(CLIPlugin):
    """Record the I/O of a job with DataCrumbs.

    --datacrumbs-enable switches it on, --datacrumbs-probe-file names the signed probe file that
    datacrumbs_probe_configurator made. The job carries both in its jobspec, as
    attributes.system.datacrumbs.
    """

    def __init__(self, prog):
        super().__init__(prog, prefix="datacrumbs")
        # Named in full: older versions of Flux would call them "enable" and "probe_file".
        self.add_option(
            "--enable",
            dest="datacrumbs_enable",
            action="store_true",
            help="Record the I/O of this job with DataCrumbs.",
        )
        self.add_option(
            "--probe-file",
            dest="datacrumbs_probe_file",
            metavar="PATH",
            help="The signed probe file that says what is recorded.",
        )

    def preinit(self, args):
        """Check the options before there is a job."""
        probe_file = args.datacrumbs_probe_file
        if not args.datacrumbs_enable:
            if probe_file:
                raise ValueError("--datacrumbs-probe-file: needs --datacrumbs-enable")
            return
        if not probe_file:
            raise ValueError("--datacrumbs-enable: needs --datacrumbs-probe-file PATH")
        # The job may start elsewhere.
        path = Path(probe_file).absolute()
        if not path.is_file():
            raise ValueError(f"--datacrumbs-probe-file: {path}: no such file")
        if not os.access(str(path), os.R_OK):
            raise ValueError(f"--datacrumbs-probe-file: {path}: cannot be read")
        args.datacrumbs_probe_file = str(path)

    def modify_jobspec(self, args, jobspec):
        """Give the job what its prolog reads."""
        if args.datacrumbs_enable:
            jobspec.setattr(ATTRIBUTE, {"enable": "yes", "probe_file": args.datacrumbs_probe_file})

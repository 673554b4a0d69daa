"""Found by optimum-cli in this namespace folder: adds `optimum-cli export ttt`.

`optimum` is a namespace package without __init__ files; none may be added here.
"""

import ttt_ref  # noqa: F401 (turns telemetry off before optimum imports what would send it)

try:
    from optimum.commands.export.base import ExportCommand

    from ttt_export.optimum_command import TttExportCommand

    REGISTER_COMMANDS = [(TttExportCommand, ExportCommand)]
except ImportError:  # half an installation of ours must not break everybody's optimum-cli
    REGISTER_COMMANDS = []

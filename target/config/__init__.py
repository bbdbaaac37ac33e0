"""Configuration: flags, environment and one TOML file become one frozen ``ServeConfig``.

1. An option has one name everywhere: ``--buffer-memory`` is ``buffer-memory`` in the file.
2. Flags win over the environment (secrets only), the environment over the file, the file over
   defaults.  A list is replaced as a whole.
3. A mistake is one line that names its place: the flag, the variable, or file, line and key.

Nothing here opens a socket or touches the data directory; only the configuration file and the files
of secrets that it names are read.
"""

from target.config.errors import ConfigError
from target.config.images import image_bytes
from target.config.load import load_serve_config
from target.config.model import ChapUser, Portal, ServeConfig, VolumeConfig
from target.config.options import Options
from target.config.sizes import format_size, parse_size

__all__ = [
    "ChapUser",
    "ConfigError",
    "Options",
    "Portal",
    "ServeConfig",
    "VolumeConfig",
    "format_size",
    "image_bytes",
    "load_serve_config",
    "parse_size",
]

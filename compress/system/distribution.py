"""The name under which this project is installed.

The command and the package are named compress. On PyPI that name belongs to another project.
"""

DISTRIBUTION = "compress-timm"

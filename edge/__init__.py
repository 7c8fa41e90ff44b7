"""An edge package: the served model as a folder that scores without this project."""

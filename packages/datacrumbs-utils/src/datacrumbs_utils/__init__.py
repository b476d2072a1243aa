"""The user side of DataCrumbs: finds functions, makes probe files, runs and looks at jobs."""

__version__ = "1.0.0.dev0"

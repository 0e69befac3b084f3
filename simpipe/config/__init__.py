"""Configuration models and loading."""

from simpipe.config.load import load_config as load_config
from simpipe.config.load import parse_config as parse_config
from simpipe.config.models import Config as Config

"""How a checkpoint is served: the model behind ``configs/*.yaml`` and ``vlmserve serve``."""

from pydantic import model_validator

from vlmserve.config.base import StrictModel
from vlmserve.config.engine import EngineConfig
from vlmserve.config.media import MediaConfig
from vlmserve.config.server import ServerConfig

_ENVELOPE_BYTES = 4 * 2**20
"""Room for text and JSON around a request's media."""


class ServeConfig(StrictModel):
    """Everything ``vlmserve serve`` can be told by a file."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    media: MediaConfig = MediaConfig()

    @property
    def max_body_bytes(self) -> int:
        """Size of a request's body: the operator's, or what holds the media that are allowed."""
        chosen = self.server.max_body_bytes
        return (
            _ENVELOPE_BYTES + -(-self.media.max_request_bytes * 4 // 3)
            if chosen is None
            else chosen
        )

    @model_validator(mode="after")
    def _names_differ(self) -> "ServeConfig":
        names = self.server.served_model_name, self.server.base_served_name
        if names[0] is not None and names[0] == names[1]:
            raise ValueError("server.served_model_name and server.base_served_name are the same")
        return self
